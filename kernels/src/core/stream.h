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

template <bool kInOrder, int K, class T, class F>
JPLLM_INLINE void write_rows_as(T* const (&y)[K], int64_t n, bool past_caches, F f) {
    constexpr int64_t piece = 4096 / static_cast<int64_t>(sizeof(T));  // of lines made at a time
    constexpr int64_t step = Vs::N;
    // Steps begin at column 0 wherever the row lies in memory: what is summed or mixed in them depends on its shape
    // alone.
    for (int k = 0; k < K; ++k) {
        if (reinterpret_cast<uintptr_t>(y[k]) % (V::N * sizeof(float)) != 0) past_caches = false;
    }
    int64_t j = 0;
    if (!past_caches) {
        for (; j + step <= n; j += step) {
            const At<Vs, kInOrder> at{j};
            Vs r[K];
            f(at, r);
            JPLLM_UNROLL for (int k = 0; k < K; ++k)
                at.store(r[k], y[k]);
        }
    } else {
        while (j + step <= n) {
            const int64_t stop = least(n, j + piece);
            for (int k = 0; k < K; ++k) zero_lines(y[k] + j, static_cast<size_t>(stop - j) * sizeof(T));
            for (; j + step <= stop; j += step) {
                const At<Vs, kInOrder> at{j};
                Vs r[K];
                f(at, r);
                JPLLM_UNROLL for (int k = 0; k < K; ++k)
                    at.stream(r[k], y[k]);
            }
        }
    }
    for (; j < n; j += V::N) {
        const At<V, kInOrder> at{j, static_cast<int>(least(V::N, n - j))};
        V r[K];
        f(at, r);
        JPLLM_UNROLL for (int k = 0; k < K; ++k)
            at.store(r[k], y[k]);
    }
}

// f(At<X>, r) over [0, n) makes X r[0..K), which go to y[0..K) at the same place: several vectors in step (X = Vs), the
// last ones by themselves (X = V). With `past_caches` no y may overlap what f reads, and stream_end() must follow.
template <int K, class T, class F>
inline void write_rows(T* const (&y)[K], int64_t n, bool past_caches, F f) {
    write_rows_as<false>(y, n, past_caches, f);
}
template <int K, class T, class F>
inline void write_rows_in_order(T* const (&y)[K], int64_t n, bool past_caches, F f) {
    write_rows_as<true>(y, n, past_caches, f);
}

// f(At<X>) over [0, n): several vectors in step, the last ones by themselves.
template <class F>
JPLLM_INLINE void for_steps(int64_t n, F f) {
    int64_t j = 0;
    for (; j + Vs::N <= n; j += Vs::N) f(At<Vs>{j});
    for (; j < n; j += V::N) f(At<V>{j, static_cast<int>(least(V::N, n - j))});
}

// A sum over a row in four chains of vectors, each step's X by add(At<X>, X).
struct RowSum {
    Vs many = Vs::zero();
    V rest = V::zero();
    JPLLM_INLINE void add(At<Vs>, const Vs& x) { many = many + x; }
    JPLLM_INLINE void add(At<V> at, V x) { rest = rest + at.fill(x, 0.0f); }
    float total() const { return sum(across(many) + rest); }
};

// sums[k] = sum over [0, n) of the X t[k] that f(At<X>, t) adds to, in four chains of vectors. at.fill() takes the
// lanes beyond the row out.
template <int K, class F>
inline void sum_row(int64_t n, float (&sums)[K], F f) {
    Vs many[K];
    V rest[K];
    JPLLM_UNROLL for (int k = 0; k < K; ++k)
        many[k] = Vs::zero(), rest[k] = V::zero();
    int64_t j = 0;
    for (; j + Vs::N <= n; j += Vs::N) f(At<Vs>{j}, many);
    for (; j < n; j += V::N) f(At<V>{j, static_cast<int>(least(V::N, n - j))}, rest);
    // Not a loop: on A64FX a sum across lanes in one is a fault that a test looks for.
    JPLLM_UNROLL for (int k = 0; k < K; ++k)
        sums[k] = sum(across(many[k]) + rest[k]);
}

// As sum_blocks (rows.h), of blocks that were written through At from column 0 on beside rows of T.
template <class T>
inline void sum_mixed_blocks(const Team& team, const float* partial, int64_t blocks, int64_t n, T* out) {
    int64_t start, stop;
    team.split(n, Vs::N, &start, &stop);
    const auto total = [&](auto at, auto s) {
        for (int64_t b = 0; b < blocks; ++b) s = s + at.load(partial + b * n);
        at.store(s, out);
    };
    int64_t j = start;
    for (; j + Vs::N <= stop; j += Vs::N) total(At<Vs>{j}, Vs::zero());
    for (; j < stop; j += V::N) total(At<V>{j, static_cast<int>(least(V::N, stop - j))}, V::zero());
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
