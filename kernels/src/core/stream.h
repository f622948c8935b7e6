// Rows that a kernel only writes. Where they outgrow the caches, writing them needs no read of what they were: x86
// stores past the caches, A64FX makes the lines in L2 (simd/simd.h). Included by units.
#pragma once
#include "../../simd/in_step.h"
#include "rows.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// The lines of one step of a kernel at p, which need not be there. x86's own prefetching stops at the end of a page,
// and A64FX's finds a row by itself.
template <class T>
inline void prefetch_step(const T* p) {
#if defined(__x86_64__)
    for (int64_t j = 0; j < Vs::N; j += 64 / static_cast<int64_t>(sizeof(T))) prefetch(p + j);
#else
    (void)p;
#endif
}
constexpr int64_t kAhead = 256;  // elements: some lines, so that they come in time

// f(At<X>, r) over [0, n) makes X r[0..K), which go to y[0..K) at the same place: several vectors in step (X = Vs), the
// last ones by themselves (X = V). With `past_caches` no y may overlap what f reads, and stream_end() must follow.
template <int K, class T, class F>
inline void write_rows(T* const (&y)[K], int64_t n, bool past_caches, F f) {
    constexpr int64_t piece = 4096 / static_cast<int64_t>(sizeof(T));  // of lines made at a time
    constexpr int64_t step = Vs::N;
    constexpr uintptr_t unit = V::N * sizeof(T);
    const auto one = [&](int64_t j, int64_t lanes) {
        const At<V> at{j, static_cast<int>(lanes)};
        V r[K];
        f(at, r);
        JPLLM_UNROLL for (int k = 0; k < K; ++k)
            at.store(r[k], y[k]);
    };
    for (int k = 0; k < K; ++k) {
        if (((reinterpret_cast<uintptr_t>(y[k]) ^ reinterpret_cast<uintptr_t>(y[0])) & (unit - 1)) != 0) {
            past_caches = false;
        }
    }
    int64_t j = 0;
    if (!past_caches) {
        for (; j + step <= n; j += step) {
            Vs r[K];
            f(At<Vs>{j}, r);
            JPLLM_UNROLL for (int k = 0; k < K; ++k)
                r[k].store(y[k] + j);
        }
    } else {
        j = least(n, static_cast<int64_t>((0 - reinterpret_cast<uintptr_t>(y[0])) & (unit - 1)) /
                         static_cast<int64_t>(sizeof(T)));
        if (j > 0) one(0, j);
        while (j + step <= n) {
            const int64_t stop = least(n, j + piece);
            for (int k = 0; k < K; ++k) zero_lines(y[k] + j, static_cast<size_t>(stop - j) * sizeof(T));
            for (; j + step <= stop; j += step) {
                Vs r[K];
                f(At<Vs>{j}, r);
                JPLLM_UNROLL for (int k = 0; k < K; ++k)
                    r[k].stream(y[k] + j);
            }
        }
    }
    for (; j < n; j += V::N) one(j, least(V::N, n - j));
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
