// The arithmetic peaks: loops in registers.
#pragma once
#include <stdint.h>

#include "../../simd/simd.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// 24 chains cover a latency of 9 on two pipes; 12 where there are only 16 registers.
constexpr int kChains = Tuning::tile_rows * Tuning::tile_vectors;

inline double fma_rounds(int64_t rounds, float* sink) {
    V x[kChains];
    JPLLM_UNROLL for (int i = 0; i < kChains; ++i)
        x[i] = V::set(static_cast<float>(i));
    const V shrink = V::set(0.5f), shift = V::set(*sink);
    for (int64_t r = 0; r < rounds; ++r) {
        JPLLM_UNROLL for (int i = 0; i < kChains; ++i)
            x[i] = fma(x[i], shrink, shift);
    }
    V total = V::zero();
    JPLLM_UNROLL for (int i = 0; i < kChains; ++i)
        total = total + x[i];
    *sink = sum(total);
    return 2.0 * kChains * V::N * static_cast<double>(rounds);
}

#if defined(JPLLM_UNIT_AVX512BF16) && !defined(JPLLM_SIMDE)
// A dot product adds two products of BF16 to each FP32 lane.
inline double dot_rounds(int64_t rounds, float* sink) {
    __m512 x[kChains];
    JPLLM_UNROLL for (int i = 0; i < kChains; ++i)
        x[i] = _mm512_set1_ps(static_cast<float>(i));
    const __m512 start = _mm512_set1_ps(*sink);
    const __m512bh a = _mm512_cvtne2ps_pbh(start, start), b = _mm512_cvtne2ps_pbh(x[0], x[1]);
    for (int64_t r = 0; r < rounds; ++r) {
        JPLLM_UNROLL for (int i = 0; i < kChains; ++i)
            x[i] = _mm512_dpbf16_ps(x[i], a, b);
    }
    __m512 total = _mm512_setzero_ps();
    JPLLM_UNROLL for (int i = 0; i < kChains; ++i)
        total = _mm512_add_ps(total, x[i]);
    *sink = _mm512_reduce_add_ps(total);
    return 4.0 * kChains * V::N * static_cast<double>(rounds);
}
constexpr double (*kDotRounds)(int64_t, float*) = dot_rounds;
#else
constexpr double (*kDotRounds)(int64_t, float*) = nullptr;
#endif

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
