// The multiply-add peak.
#pragma once
#include <stdint.h>

#include "../../simd/simd.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// 24 chains cover a latency of 9 on two pipes; 12 where there are only 16 registers.
inline double fma_rounds(int64_t rounds, float* sink) {
    constexpr int chains = Tuning::tile_rows * Tuning::tile_vectors;
    V x[chains];
    JPLLM_UNROLL for (int i = 0; i < chains; ++i)
        x[i] = V::set(static_cast<float>(i));
    const V shrink = V::set(0.5f), shift = V::set(*sink);
    for (int64_t r = 0; r < rounds; ++r) {
        JPLLM_UNROLL for (int i = 0; i < chains; ++i)
            x[i] = fma(x[i], shrink, shift);
    }
    V total = V::zero();
    JPLLM_UNROLL for (int i = 0; i < chains; ++i)
        total = total + x[i];
    *sink = sum(total);
    return 2.0 * chains * V::N * static_cast<double>(rounds);
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
