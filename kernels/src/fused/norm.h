// Root-mean-square norm (Zhang & Sennrich, arXiv:1910.07467) and layer norm (Ba et al., arXiv:1607.06450), forward and
// backward, with the addition before the norm that a residual stream has.
//
// Letters: M rows, D width. A row is read from memory once, what follows finds it in the caches.
#pragma once
#include "../core/stream.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// sum of (x - mean)^2 over a row; without a mean, of x^2.
template <bool kCentred, class T>
inline float squares_of(const T* x, V mean, int64_t d) {
    float squares[1];
    sum_row(d, squares, [&](auto at, auto(&s)[1]) {
        auto t = at.load(x);
        if (kCentred) t = at.fill(t - mean, 0.0f);
        s[0] = fma(t, t, s[0]);
    });
    return squares[0];
}

// h = x + update, rounded to T as it is kept; returns where the norm is to read it. `copy` is a row of the caches for
// when h is stored past them.
template <class T>
inline const T* add_row(const NormArgs& a, int64_t i, T* copy) {
    const T *x = row<T>(a.x, i), *update = row<T>(a.update, i);
    T *const h[1] = {row<T>(a.sum, i)}, *const near[1] = {copy == nullptr ? h[0] : copy};
    write_rows(near, a.d, false, [&](auto at, auto(&r)[1]) { r[0] = at.load(x) + at.load(update); });
    if (copy != nullptr) write_rows(h, a.d, true, [&](auto at, auto(&r)[1]) { r[0] = at.load(copy); });
    return near[0];
}

template <class T, bool kCentred>
inline void norm_rows(const NormArgs& a, int64_t start, int64_t stop) {
    const float share = 1.0f / static_cast<float>(a.d), eps = static_cast<float>(a.eps);
    const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
    T* copy = nullptr;
    if (a.update.data != nullptr && a.past_caches) copy = static_cast<T*>(workspace(static_cast<size_t>(a.d) * 4));
    for (int64_t i = start; i < stop; ++i) {
        const T* x = a.update.data != nullptr ? add_row<T>(a, i, copy) : row<T>(a.x, i);
        V mean = V::zero();
        if (kCentred) {
            float total[1];
            sum_row(a.d, total, [&](auto at, auto(&s)[1]) { s[0] = s[0] + at.load(x); });
            mean = V::set(total[0] * share);
            mean.store_n(a.mean + i, 1);
        }
        // In vectors, because A64FX blocks for 98 cycles at a scalar square root or quotient.
        const V rstd = V::set(1.0f) / sqrt(V::set(squares_of<kCentred>(x, mean, a.d) * share + eps));
        rstd.store_n(a.rstd + i, 1);
        T* const y[1] = {row<T>(a.y, i)};
        const bool adds = a.update.data != nullptr;
        const T *next = row<T>(a.x, i) + a.x.stride, *more = adds ? row<T>(a.update, i) + a.update.stride : next;
        write_rows(y, a.d, a.past_caches, [&](auto at, auto(&r)[1]) {
            prefetch_step(next + at.j);
            if (adds) prefetch_step(more + at.j);
            const auto t = at.load(x), w = at.load(weight);
            if constexpr (kCentred) {
                r[0] = fma((t - mean) * rstd, w, at.load(bias));
            } else {
                r[0] = t * rstd * w;
            }
        });
    }
    if (a.past_caches) stream_end();
}

template <class T, bool kCentred>
inline int norm(const NormArgs& args, int threads) {
    NormArgs call = args;
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.d) * 0.2),
        [](const Team& team, void* context) {
            const NormArgs& a = *static_cast<NormArgs*>(context);
            int64_t start, stop;
            team.split(a.m, 1, &start, &stop);
            norm_rows<T, kCentred>(a, start, stop);
        },
        &call);
    return 0;
}

// With xhat = (x - mean) rstd and g = w dy:  dx = rstd (g - xhat mean(g xhat) - mean(g)) + dsum; a root-mean-square
// norm has neither mean. Adds the row's parts of dweight = sum of dy xhat and dbias = sum of dy.
template <class T, bool kCentred>
inline void norm_backward_row(const NormBackwardArgs& a, int64_t i, float share, float* dweight, float* dbias) {
    const T *x = row<T>(a.x, i), *dy = row<T>(a.dy, i), *weight = static_cast<const T*>(a.weight);
    const T* dsum = a.dsum.data == nullptr ? nullptr : row<T>(a.dsum, i);
    const V rstd = V::set(a.rstd[i]), mean = kCentred ? V::set(a.mean[i]) : V::zero();
    float sums[kCentred ? 2 : 1];  // of g (x - mean), of g
    sum_row(a.d, sums, [&](auto at, auto& s) {
        const auto g = at.load(dy) * at.load(weight), h = at.load(x);
        s[0] = fma(g, kCentred ? h - mean : h, s[0]);
        if constexpr (kCentred) s[1] = s[1] + g;
    });
    const V pull = rstd * V::set(sums[0] * share);
    V push = V::zero();
    if constexpr (kCentred) push = V::set(sums[1] * share);
    T* const dx[1] = {row<T>(a.dx, i)};
    write_rows(dx, a.d, a.past_caches, [&](auto at, auto(&r)[1]) {
        prefetch_step(x + a.x.stride + at.j), prefetch_step(dy + a.dy.stride + at.j);
        const auto g = at.load(dy), h = at.load(x);
        const auto xhat = (kCentred ? h - mean : h) * rstd;
        at.store(fma(g, xhat, at.load(dweight)), dweight);
        if (kCentred) at.store(at.load(dbias) + g, dbias);
        auto t = fnma(xhat, pull, g * at.load(weight));
        if (kCentred) t = t - push;
        r[0] = dsum == nullptr ? t * rstd : fma(t, rstd, at.load(dsum));
    });
}

struct NormBackwardCall {
    NormBackwardArgs args;
    float *dweight, *dbias;  // of each block of rows
};

template <class T, bool kCentred>
inline int norm_backward(const NormBackwardArgs& args, int threads) {
    const int64_t blocks = row_blocks(args.m), size = blocks * args.d;
    float* partial = static_cast<float*>(workspace(static_cast<size_t>(size * (kCentred ? 2 : 1) + 1) * sizeof(float)));
    if (partial == nullptr) return 1;
    NormBackwardCall call{args, partial, partial + size};
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.d) * 0.4),
        [](const Team& team, void* context) {
            const NormBackwardCall& c = *static_cast<NormBackwardCall*>(context);
            const NormBackwardArgs& a = c.args;
            const float share = 1.0f / static_cast<float>(a.d);
            int64_t start, stop;
            team.split(row_blocks(a.m), 1, &start, &stop);
            for (int64_t b = start; b < stop; ++b) {
                float *dweight = c.dweight + b * a.d, *dbias = c.dbias + b * a.d;
                memset(dweight, 0, static_cast<size_t>(a.d) * sizeof(float));
                if (kCentred) memset(dbias, 0, static_cast<size_t>(a.d) * sizeof(float));
                const int64_t first = b * rows_a_block(a.m), last = least(a.m, first + rows_a_block(a.m));
                for (int64_t i = first; i < last; ++i) norm_backward_row<T, kCentred>(a, i, share, dweight, dbias);
            }
            if (a.past_caches) stream_end();
            team.barrier();
            sum_mixed_blocks(team, c.dweight, row_blocks(a.m), a.d, static_cast<T*>(a.dweight));
            if (kCentred) sum_mixed_blocks(team, c.dbias, row_blocks(a.m), a.d, static_cast<T*>(a.dbias));
        },
        &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
