// The table of an instruction set's probes.
#pragma once
#include <stdint.h>

namespace jpllm {

// What a pass over memory does: c = a, or c = a + s b. The stores are plain or go past the caches.
enum StreamKind { kStreamCopy = 0, kStreamTriad = 1, kStreamKinds = 2 };

struct StreamArgs {
    int64_t n;
    const float* a;
    const float* b;
    float* c;
    bool past_caches;
};

struct ProbeTable {
    const char* name;
    int lanes;
    // `rounds` of independent multiply-adds in registers; returns their flop, and a value to keep the compiler honest.
    double (*fma_rounds)(int64_t rounds, float* sink);
    // The same with BF16 dot products summed in FP32; nullptr where the set has none and BF16 is converted.
    double (*dot_rounds)(int64_t rounds, float* sink);
    void (*stream[kStreamKinds])(const StreamArgs& args);
    // Whether stores past the caches differ from plain ones.
    bool has_past_caches;
};

}  // namespace jpllm
