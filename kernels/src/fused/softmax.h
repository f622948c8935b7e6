// Softmax of rows. Letters: M rows, N columns.
#pragma once
#include "../../simd/math.h"
#include "../core/stream.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

template <class T>
inline float largest_of(const T* x, int64_t n) {
    const V lowest = V::set(-__builtin_inff());
    V m0 = lowest, m1 = lowest, m2 = lowest, m3 = lowest;
    int64_t j = 0;
    for (; j + 4 * V::N <= n; j += 4 * V::N) {
        m0 = max(V::load(x + j), m0);
        m1 = max(V::load(x + j + V::N), m1);
        m2 = max(V::load(x + j + 2 * V::N), m2);
        m3 = max(V::load(x + j + 3 * V::N), m3);
    }
    for_vectors(n - j, [&](int64_t i, int lanes) {
        m0 = max(lanes == V::N ? V::load(x + j + i) : first_n(load_part(x + j + i, lanes), lanes, -__builtin_inff()),
                 m0);
    });
    return max_lane(max(max(m0, m1), max(m2, m3)));
}

// `power` is a row of FP32 for e^(x - largest). A row with a NaN, or whose largest is infinite, gives NaN throughout.
template <class T>
inline void softmax_row(const SoftmaxArgs& a, int64_t i, float* power) {
    const T* x = row<T>(a.x, i);
    const V largest = V::set(largest_of(x, a.n));
    Vs sums = Vs::zero();
    V rest = V::zero();
    int64_t j = 0;
    for (; j + Vs::N <= a.n; j += Vs::N) {
        prefetch_step(x + a.x.stride + j);  // of the next row, which comes from memory while this one is computed
        const Vs e = exp(Vs::load(x + j) - largest);
        e.store(power + j);
        sums = sums + e;
    }
    for_vectors(a.n - j, [&](int64_t i, int lanes) {
        const V e = exp(load_part(x + j + i, lanes) - largest);
        store_part(e, power + j + i, lanes);
        rest = rest + first_n(e, lanes, 0.0f);
    });
    const V scale = V::set(1.0f) / V::set(sum(across(sums) + rest));
    T* const y[1] = {row<T>(a.y, i)};
    write_rows(y, a.n, a.past_caches, [&](auto at, auto(&r)[1]) { r[0] = at.load(power) * scale; });
}

// dx = y (dy - sum of dy y)
template <class T>
inline void softmax_backward_row(const SoftmaxArgs& a, int64_t i) {
    const T *y = row<T>(a.x, i), *dy = row<T>(a.dy, i);
    const V dot = V::set(sum_of(
        a.n, [&](int64_t j, int lanes, V s) { return fma(load_part(dy + j, lanes), load_part(y + j, lanes), s); }));
    T* const dx[1] = {row<T>(a.y, i)};
    write_rows(dx, a.n, a.past_caches, [&](auto at, auto(&r)[1]) {
        prefetch_step(y + a.x.stride + at.j), prefetch_step(dy + a.dy.stride + at.j);
        r[0] = at.load(y) * (at.load(dy) - dot);
    });
}

struct SoftmaxCall {
    SoftmaxArgs args;
    bool failed;
};

template <class T>
inline int softmax(const SoftmaxArgs& args, int threads) {
    SoftmaxCall call{args, false};
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.n) * 0.5),
        [](const Team& team, void* context) {
            SoftmaxCall& c = *static_cast<SoftmaxCall*>(context);
            const SoftmaxArgs& a = c.args;
            int64_t start, stop;
            team.split(a.m, 1, &start, &stop);
            float* power = nullptr;
            if (a.dy.data == nullptr && start < stop) {
                power = static_cast<float*>(workspace(static_cast<size_t>(a.n) * sizeof(float)));
                if (power == nullptr) {
                    __atomic_store_n(&c.failed, true, __ATOMIC_RELAXED);
                    return;
                }
            }
            for (int64_t i = start; i < stop; ++i) {
                if (a.dy.data == nullptr) {
                    softmax_row<T>(a, i, power);
                } else {
                    softmax_backward_row<T>(a, i);
                }
            }
            if (a.past_caches) stream_end();
        },
        &call);
    return call.failed ? 1 : 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
