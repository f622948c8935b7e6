// The table of an instruction set's probes.
#pragma once
#include <stdint.h>

namespace jpllm {

struct ProbeTable {
    const char* name;
    int lanes;
    // `rounds` of independent multiply-adds in registers; returns their flop, and a value to keep the compiler honest.
    double (*fma_rounds)(int64_t rounds, float* sink);
};

}  // namespace jpllm
