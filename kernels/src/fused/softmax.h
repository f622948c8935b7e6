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
    Vs m = Vs::set(-__builtin_inff());
    int64_t j = 0;
    for (; j + Vs::N <= n; j += Vs::N) m = max(At<Vs>{j}.load(x), m);
    for (; j < n; j += V::N) {
        const At<V> at{j, static_cast<int>(least(V::N, n - j))};
        m.a = max(at.fill(at.load(x), -__builtin_inff()), m.a);
    }
    return max_lane(max(max(m.a, m.b), max(m.c, m.d)));
}

// Rows [start, stop). A row with a NaN, or whose largest is infinite, gives NaN throughout. `powers` are two rows of
// FP32 for e^(x - largest): a row is written while the next one's are computed, so that neither waits for the other.
template <class T>
inline void softmax_rows(const SoftmaxArgs& a, int64_t start, int64_t stop, float* powers) {
    V scale = V::zero();
    for (int64_t i = start; i < stop; ++i) {
        const T* x = row<T>(a.x, i);
        const V largest = V::set(largest_of(x, a.n));
        float *power = powers + (i & 1) * a.n, *before = powers + (~i & 1) * a.n;
        RowSum sums;
        const auto take = [&](auto at) __attribute__((always_inline)) {
            prefetch_step(x + a.x.stride + at.j);  // of the next row
            const auto e = exp(at.load(x) - largest);
            at.store(e, power);
            sums.add(at, e);
        };
        if (i == start) {
            for_steps(a.n, take);
        } else {
            T* const y[1] = {row<T>(a.y, i - 1)};
            write_rows(y, a.n, a.past_caches, [&](auto at, auto(&r)[1]) {
                r[0] = at.load(before) * scale;
                take(at);
            });
        }
        scale = V::set(1.0f) / V::set(sums.total());
    }
    const float* power = powers + (~stop & 1) * a.n;
    T* const y[1] = {row<T>(a.y, stop - 1)};
    write_rows(y, a.n, a.past_caches, [&](auto at, auto(&r)[1]) { r[0] = at.load(power) * scale; });
}

// dx = y (dy - sum of dy y)
template <class T>
inline void softmax_backward_row(const SoftmaxArgs& a, int64_t i) {
    const T *y = row<T>(a.x, i), *dy = row<T>(a.dy, i);
    float sums[1];
    sum_row(a.n, sums, [&](auto at, auto(&s)[1]) { s[0] = fma(at.load(dy), at.load(y), s[0]); });
    const V dot = V::set(sums[0]);
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
            if (a.dy.data != nullptr) {
                for (int64_t i = start; i < stop; ++i) softmax_backward_row<T>(a, i);
            } else if (start < stop) {
                float* powers = static_cast<float*>(workspace(2 * static_cast<size_t>(a.n) * sizeof(float)));
                if (powers == nullptr) {
                    __atomic_store_n(&c.failed, true, __ATOMIC_RELAXED);
                    return;
                }
                softmax_rows<T>(a, start, stop, powers);
            }
            if (a.past_caches) stream_end();
        },
        &call);
    return call.failed ? 1 : 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
