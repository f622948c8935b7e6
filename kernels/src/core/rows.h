// Walking rows by vectors, and sums, over any storage type. Included by units (simd/simd.h says what that forbids).
#pragma once
#include "../../simd/simd.h"
#include "team.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t round_up(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

template <class T>
inline V load_part(const T* p, int n) {
    return n == V::N ? V::load(p) : V::load_n(p, n);
}
template <class T>
inline void store_part(V x, T* p, int n) {
    if (n == V::N) {
        x.store(p);
    } else {
        x.store_n(p, n);
    }
}

// f(offset, lanes) over [0, n).
template <class F>
inline void for_vectors(int64_t n, F f) {
    int64_t i = 0;
    for (; i + V::N <= n; i += V::N) f(i, V::N);
    if (i < n) f(i, static_cast<int>(n - i));
}

// sum over i < n of f(i, lanes) in four chains of vectors; f gets an offset and how many lanes count.
template <class F>
inline float sum_of(int64_t n, F f) {
    V s0 = V::zero(), s1 = V::zero(), s2 = V::zero(), s3 = V::zero();
    int64_t i = 0;
    for (; i + 4 * V::N <= n; i += 4 * V::N) {
        s0 = f(i, V::N, s0);
        s1 = f(i + V::N, V::N, s1);
        s2 = f(i + 2 * V::N, V::N, s2);
        s3 = f(i + 3 * V::N, V::N, s3);
    }
    for (; i + V::N <= n; i += V::N) s0 = f(i, V::N, s0);
    if (i < n) s1 = f(i, static_cast<int>(n - i), s1);
    return sum((s0 + s1) + (s2 + s3));
}

// Sums over rows are made in blocks of rows whose size depends on their number alone, then over the blocks in order:
// the same bits on any number of threads, and an error that grows with the square root of their number at most.
inline int64_t rows_a_block(int64_t m) { return m <= 16 * 256 ? 16 : (m + 255) / 256; }
inline int64_t row_blocks(int64_t m) { return (m + rows_a_block(m) - 1) / rows_a_block(m); }

// out[j] = sum over blocks of partial[block][j], columns split over the team.
template <class T>
inline void sum_blocks(const Team& team, const float* partial, int64_t blocks, int64_t n, T* out) {
    int64_t start, stop;
    team.split(n, V::N, &start, &stop);
    for_vectors(stop - start, [&](int64_t j, int lanes) {
        V s = V::zero();
        for (int64_t b = 0; b < blocks; ++b) s = s + load_part(partial + b * n + start + j, lanes);
        store_part(s, out + start + j, lanes);
    });
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
