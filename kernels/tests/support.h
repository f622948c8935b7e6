// What the test program's files share: checks, fixed random numbers, comparison within a bound.
//
// Bounds: eps = 2^-24 is FP32's rounding; a sum of K products of unit-normal numbers may be wrong by a few
// eps * sqrt(K) * sqrt(blocks), allowed here is 4 eps * (the sum of the absolute products) + a rounding of the result.
#pragma once
#include <stdio.h>
#include <string.h>

#include <cmath>
#include <string>
#include <vector>

#include "jpllm_kernels.h"

constexpr double kEps = 1.0 / (1 << 24);
extern int failures, checks;
extern std::string isa;

inline void expect(bool ok, const std::string& what) {
    ++checks;
    if (!ok) {
        ++failures;
        fprintf(stderr, "FAILED on %s: %s\n", isa.c_str(), what.c_str());
    }
}

using Floats = std::vector<float>;

// A fixed sequence of roughly normal numbers (sum of four uniforms), by a 64-bit linear congruential generator.
inline Floats random_floats(int64_t n, uint64_t seed) {
    uint64_t state = seed * 2862933555777941757ULL + 3037000493ULL;
    Floats out(static_cast<size_t>(n));
    for (float& x : out) {
        double sum = 0;
        for (int i = 0; i < 4; ++i) {
            state = state * 6364136223846793005ULL + 1442695040888963407ULL;
            sum += static_cast<double>(state >> 11) / 9007199254740992.0 - 0.5;
        }
        x = static_cast<float>(sum * 1.7);
    }
    return out;
}

// Compares within `bound(i)` and names the first fault. NaN never passes.
template <class Bound>
void near(const std::string& what, const Floats& got, const std::vector<double>& want, Bound bound) {
    ++checks;
    for (size_t i = 0; i < want.size(); ++i) {
        if (!(std::fabs(got[i] - want[i]) <= bound(i))) {
            ++failures;
            fprintf(stderr, "FAILED on %s: %s at %zu: %.9g, expected %.9g within %.3g\n", isa.c_str(), what.c_str(), i,
                    static_cast<double>(got[i]), want[i], bound(i));
            return;
        }
    }
}

inline void same_bits(const std::string& what, const Floats& a, const Floats& b) {
    expect(a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0),
           what + ": different bits");
}

// A number in a storage type, as plain code has it.
struct Stored {
    jpllm_dtype dtype;
    std::vector<float> wide;  // for FP32, and what the 16-bit numbers are worth
    std::vector<uint16_t> narrow;

    Stored(jpllm_dtype type, const Floats& from) : dtype(type), wide(from), narrow(from.size()) {
        if (type == JPLLM_FP32) return;
        int finite = 0;
        const int64_t n = static_cast<int64_t>(from.size());
        jpllm_cast(JPLLM_FP32, type, 1, n, from.data(), n, narrow.data(), n, 1.0, &finite, 1);
        read();
    }
    void* data() { return dtype == JPLLM_FP32 ? static_cast<void*>(wide.data()) : narrow.data(); }
    const Floats& read() {
        int finite = 0;
        const int64_t n = static_cast<int64_t>(wide.size());
        if (dtype != JPLLM_FP32) jpllm_cast(dtype, JPLLM_FP32, 1, n, narrow.data(), n, wide.data(), n, 1.0, &finite, 1);
        return wide;
    }
    // A rounding to the type, and some of FP32.
    double bound(double want) const {
        const double step = dtype == JPLLM_BF16 ? 1.0 / 256 : dtype == JPLLM_FP16 ? 1.0 / 2048 : 0;
        return step * std::fabs(want) + 6e-6 * (std::fabs(want) + 1);
    }
};

// Each family's checks, for the instruction set in use.
void test_gemm();
void test_fp16_chunk();
void test_int16();
void test_attention();
void test_fused();
void test_embedding();
void test_experts();
void test_optimizer();
void test_loss();
void test_probe();
