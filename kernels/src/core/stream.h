// Rows that a kernel only writes. Where they outgrow the caches, writing them needs no read of what they were: x86
// stores past the caches, A64FX makes the lines in L2 (simd/simd.h). Included by units.
#pragma once
#include "rows.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// f(offset, lanes, r) over [0, n) makes vectors r[0..K), which go to y[0..K) at the same offset. With `past_caches` no
// y may overlap what f reads, and stream_end() must follow.
template <int K, class T, class F>
inline void write_rows(T* const (&y)[K], int64_t n, bool past_caches, F f) {
    constexpr int64_t piece = 4096 / static_cast<int64_t>(sizeof(T));  // of lines made at a time
    constexpr uintptr_t unit = V::N * sizeof(T);
    const auto store = [&](int64_t j, int lanes) {
        V r[K];
        f(j, lanes, r);
        JPLLM_UNROLL for (int k = 0; k < K; ++k)
            store_part(r[k], y[k] + j, lanes);
    };
    for (int k = 0; k < K; ++k) {
        if (((reinterpret_cast<uintptr_t>(y[k]) ^ reinterpret_cast<uintptr_t>(y[0])) & (unit - 1)) != 0) {
            past_caches = false;
        }
    }
    if (!past_caches) {
        for_vectors(n, store);
        return;
    }
    int64_t j = least(n, static_cast<int64_t>((0 - reinterpret_cast<uintptr_t>(y[0])) & (unit - 1)) /
                             static_cast<int64_t>(sizeof(T)));
    if (j > 0) store(0, static_cast<int>(j));
    while (j + V::N <= n) {
        const int64_t stop = least(n, j + piece);
        for (int k = 0; k < K; ++k) zero_lines(y[k] + j, static_cast<size_t>(stop - j) * sizeof(T));
        for (; j + V::N <= stop; j += V::N) {
            V r[K];
            f(j, V::N, r);
            JPLLM_UNROLL for (int k = 0; k < K; ++k)
                r[k].stream(y[k] + j);
        }
    }
    if (j < n) store(j, static_cast<int>(n - j));
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
