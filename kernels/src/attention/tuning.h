// Tile and block sizes of attention, by the number of vector registers.
#pragma once
#include "../../simd/simd.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

#if defined(JPLLM_UNIT_AVX512) || defined(JPLLM_UNIT_AVX512BF16) || defined(__ARM_FEATURE_SVE)
// 32 registers: 24 sums, 3 of the vectors' operand, broadcasts.
struct AttentionTuning {
    static constexpr int rows = 8, vectors = 3;
    static constexpr int wide_rows = 6, wide_vectors = 4;
    static constexpr int keys = 96, queries = 384, sweep = 2;
};
#elif defined(JPLLM_UNIT_AVX2)
struct AttentionTuning {
    static constexpr int rows = 6, vectors = 2;
    static constexpr int wide_rows = 6, wide_vectors = 2;
    static constexpr int keys = 96, queries = 384, sweep = 3;
};
#else
struct AttentionTuning {
    static constexpr int rows = 4, vectors = 2;
    static constexpr int wide_rows = 4, wide_vectors = 2;
    static constexpr int keys = 96, queries = 384, sweep = 6;
};
#endif

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
