// Root-mean-square norm, forward and backward (Zhang & Sennrich, arXiv:1910.07467), and sums over rows.
//
// Letters: M rows, D width. Sums over rows are made in blocks of rows whose size depends on M alone, then over the
// blocks in order: the same bits on any number of threads, and an error that grows with the square root of M at most.
#pragma once
#include "../simd/simd.h"
#include "table.h"
#include "team.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

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

inline V load_part(const float* p, int n) { return n == V::N ? V::load(p) : V::load_n(p, n); }
inline void store_part(V x, float* p, int n) {
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

inline int64_t rows_a_block(int64_t m) { return m <= 16 * 256 ? 16 : (m + 255) / 256; }
inline int64_t row_blocks(int64_t m) { return (m + rows_a_block(m) - 1) / rows_a_block(m); }

// out[j] = sum over blocks of partial[block][j], columns split over the team.
inline void sum_blocks(const Team& team, const float* partial, int64_t blocks, int64_t n, float* out) {
    int64_t start, stop;
    team.split(n, V::N, &start, &stop);
    for_vectors(stop - start, [&](int64_t j, int lanes) {
        V s = V::zero();
        for (int64_t b = 0; b < blocks; ++b) s = s + load_part(partial + b * n + start + j, lanes);
        store_part(s, out + start + j, lanes);
    });
}

struct ColumnSumCall {
    ColumnSumArgs args;
    float* partial;
};

inline int column_sum(const ColumnSumArgs& args, int threads) {
    const int64_t blocks = row_blocks(args.m);
    ColumnSumCall call{args, static_cast<float*>(workspace(static_cast<size_t>(blocks * args.n + 1) * sizeof(float)))};
    if (call.partial == nullptr) return 1;
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.n) * 0.1),
        [](const Team& team, void* context) {
            const ColumnSumArgs& a = static_cast<ColumnSumCall*>(context)->args;
            float* partial = static_cast<ColumnSumCall*>(context)->partial;
            int64_t start, stop;
            team.split(row_blocks(a.m), 1, &start, &stop);
            for (int64_t b = start; b < stop; ++b) {
                const int64_t first = b * rows_a_block(a.m);
                const int64_t last = first + rows_a_block(a.m) < a.m ? first + rows_a_block(a.m) : a.m;
                for_vectors(a.n, [&](int64_t j, int lanes) {
                    V s = V::zero();
                    for (int64_t i = first; i < last; ++i) s = s + load_part(a.x + i * a.x_rs + j, lanes);
                    store_part(s, partial + b * a.n + j, lanes);
                });
            }
            team.barrier();
            sum_blocks(team, partial, row_blocks(a.m), a.n, a.out);
        },
        &call);
    return 0;
}

inline int rms_norm(const NormArgs& args, int threads) {
    NormArgs call = args;
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.d) * 0.2),
        [](const Team& team, void* context) {
            const NormArgs& a = *static_cast<NormArgs*>(context);
            int64_t start, stop;
            team.split(a.m, 1, &start, &stop);
            for (int64_t i = start; i < stop; ++i) {
                const float* x = a.x + i * a.x_rs;
                float* y = a.y + i * a.y_rs;
                const float squares = sum_of(a.d, [&](int64_t j, int lanes, V s) {
                    const V t = load_part(x + j, lanes);
                    return fma(t, t, s);
                });
                const float rstd = static_cast<float>(
                    1.0 / __builtin_sqrt(static_cast<double>(squares) / static_cast<double>(a.d) + a.eps));
                a.rstd[i] = rstd;
                const V scale = V::set(rstd);
                for_vectors(a.d, [&](int64_t j, int lanes) {
                    store_part(load_part(x + j, lanes) * scale * load_part(a.weight + j, lanes), y + j, lanes);
                });
            }
        },
        &call);
    return 0;
}

struct NormBackwardCall {
    NormBackwardArgs args;
    float* partial;
};

inline int rms_norm_backward(const NormBackwardArgs& args, int threads) {
    const int64_t blocks = row_blocks(args.m);
    NormBackwardCall call{args,
                          static_cast<float*>(workspace(static_cast<size_t>(blocks * args.d + 1) * sizeof(float)))};
    if (call.partial == nullptr) return 1;
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.d) * 0.4),
        [](const Team& team, void* context) {
            const NormBackwardArgs& a = static_cast<NormBackwardCall*>(context)->args;
            float* partials = static_cast<NormBackwardCall*>(context)->partial;
            int64_t start, stop;
            team.split(row_blocks(a.m), 1, &start, &stop);
            for (int64_t b = start; b < stop; ++b) {
                float* partial = partials + b * a.d;
                memset(partial, 0, static_cast<size_t>(a.d) * sizeof(float));
                const int64_t first = b * rows_a_block(a.m);
                const int64_t last = first + rows_a_block(a.m) < a.m ? first + rows_a_block(a.m) : a.m;
                for (int64_t i = first; i < last; ++i) {
                    const float *x = a.x + i * a.x_rs, *dy = a.dy + i * a.dy_rs;
                    float* dx = a.dx + i * a.dx_rs;
                    const float dot = sum_of(a.d, [&](int64_t j, int lanes, V s) {
                        const V wdy = load_part(dy + j, lanes) * load_part(a.weight + j, lanes);
                        return fma(wdy, load_part(x + j, lanes), s);
                    });
                    const float rstd = a.rstd[i];
                    const V scale = V::set(rstd), pull = V::set(rstd * rstd * rstd * (dot / static_cast<float>(a.d)));
                    for_vectors(a.d, [&](int64_t j, int lanes) {
                        const V g = load_part(dy + j, lanes), t = load_part(x + j, lanes);
                        const V w = load_part(a.weight + j, lanes), scaled = g * scale;
                        store_part(fma(t, scaled, load_part(partial + j, lanes)), partial + j, lanes);
                        store_part(fnma(pull, t, w * scaled), dx + j, lanes);
                    });
                }
            }
            team.barrier();
            sum_blocks(team, partials, row_blocks(a.m), a.d, a.dweight);
        },
        &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
