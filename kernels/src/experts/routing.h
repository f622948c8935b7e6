// Experts: which of them a token goes to, the order of tokens by expert, and the sum of what they give. Letters:
// N tokens, E experts, k experts of a token, M = N k rows in the order of experts, D width.
#pragma once
#include "../../simd/math.h"
#include "../core/stream.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// scores[E], what weights are made of: e^(x - max x), whose sum is returned, or sigmoid(x), where 1 is.
template <class T>
inline float scores_of(const RouteArgs& a, const T* logits, float* scores) {
    if (a.sigmoid) {
        for_vectors(
            a.e, [&](int64_t j, int lanes) { store_part(sigmoid(load_part(logits + j, lanes)), scores + j, lanes); });
        return 1.0f;
    }
    V largest = V::set(-__builtin_inff());
    for_vectors(a.e, [&](int64_t j, int lanes) {
        largest = max(first_n(load_part(logits + j, lanes), lanes, -__builtin_inff()), largest);
    });
    const V shift = V::set(max_lane(largest));
    return sum_of(a.e, [&](int64_t j, int lanes, V s) {
        const V e = exp(load_part(logits + j, lanes) - shift);
        store_part(e, scores + j, lanes);
        return s + first_n(e, lanes, 0.0f);
    });
}

// The k largest keys, largest first, equal ones by number; a NaN is no larger than anything.
inline void choose(const float* keys, int64_t e, int64_t k, int64_t* chosen) {
    for (int64_t i = 0; i < e; ++i) {
        int64_t at = i < k ? i : k;
        if (at == k && !(keys[i] > keys[chosen[k - 1]])) continue;
        if (at == k) --at;
        for (; at > 0 && keys[i] > keys[chosen[at - 1]]; --at) chosen[at] = chosen[at - 1];
        chosen[at] = i;
    }
}

// In vectors, because A64FX blocks for 98 cycles at a scalar quotient.
inline void divide(float* x, int64_t n, float by) {
    for_vectors(n, [&](int64_t j, int lanes) { store_part(load_part(x + j, lanes) / V::set(by), x + j, lanes); });
}

template <class T>
inline void route_token(const RouteArgs& a, int64_t n, float* scores, float* keys) {
    const T* logits = row<T>(a.logits, n);
    int64_t* chosen = a.experts + n * a.k;
    float* weights = a.weights + n * a.k;
    float total = scores_of(a, logits, scores);
    // Without a bias by the logits themselves: a score may have rounded two of them to one number.
    const V share = V::set(1.0f) / V::set(total);
    for_vectors(a.e, [&](int64_t j, int lanes) {
        V key = load_part(logits + j, lanes);
        if (a.bias != nullptr) key = fma(load_part(scores + j, lanes), share, load_part(a.bias + j, lanes));
        store_part(key, keys + j, lanes);
    });
    choose(keys, a.e, a.k, chosen);
    if (a.normalize) total = 0.0f;
    for (int64_t j = 0; j < a.k; ++j) {
        weights[j] = scores[chosen[j]];
        if (a.normalize) total += weights[j];
    }
    divide(weights, a.k, total);
}

// The gradient of the logits from that of the weights; the choice itself has none.
template <class T>
inline void route_backward_token(const RouteArgs& a, int64_t n, float* scores, float* grad) {
    const int64_t* chosen = a.experts + n * a.k;
    const float *weights = a.weights + n * a.k, *dweights = a.dweights + n * a.k;
    float dot = 0.0f;
    for (int64_t j = 0; j < a.k; ++j) dot += weights[j] * dweights[j];
    float total = scores_of(a, row<T>(a.logits, n), scores);
    const V by_all = V::set(a.normalize || a.sigmoid ? 0.0f : -dot) / V::set(total);
    for_vectors(a.e, [&](int64_t j, int lanes) { store_part(load_part(scores + j, lanes) * by_all, grad + j, lanes); });
    if (a.normalize) {
        total = 0.0f;
        for (int64_t j = 0; j < a.k; ++j) total += scores[chosen[j]];
    }
    float share;
    (V::set(1.0f) / V::set(total)).store_n(&share, 1);
    for (int64_t j = 0; j < a.k; ++j) {
        const float slope = a.sigmoid ? scores[chosen[j]] * (1.0f - scores[chosen[j]]) * share : weights[j];
        grad[chosen[j]] += slope * (a.normalize ? dweights[j] - dot : dweights[j]);
    }
    T* to = row<T>(a.dlogits, n);
    for_vectors(a.e, [&](int64_t j, int lanes) { store_part(load_part(grad + j, lanes), to + j, lanes); });
}

struct RouteCall {
    RouteArgs args;
    float* memory;
};

template <class T>
inline int route(const RouteArgs& args, int threads) {
    const int team_size = worthwhile(threads, static_cast<double>(args.n) * (static_cast<double>(args.e) + 50.0) * 2.0);
    const size_t line = static_cast<size_t>(round_up(args.e, 64));
    RouteCall call{args, static_cast<float*>(workspace(2 * line * static_cast<size_t>(team_size) * sizeof(float)))};
    if (call.memory == nullptr) return 1;
    run_team(
        team_size,
        [](const Team& team, void* context) {
            const RouteCall& c = *static_cast<RouteCall*>(context);
            const int64_t width = round_up(c.args.e, 64);
            float *scores = c.memory + 2 * team.id * width, *keys = scores + width;
            int64_t start, stop;
            team.split(c.args.n, 1, &start, &stop);
            for (int64_t n = start; n < stop; ++n) {
                if (c.args.dweights == nullptr) {
                    route_token<T>(c.args, n, scores, keys);
                } else {
                    route_backward_token<T>(c.args, n, scores, keys);
                }
            }
        },
        &call);
    return 0;
}

// y[n] = sum over j of weights[n, j] x[position[n, j]], in FP32, in that order.
template <class T>
inline void combine_token(const CombineArgs& a, int64_t n) {
    const int64_t* position = a.position + n * a.k;
    const float* weights = a.weights == nullptr ? nullptr : a.weights + n * a.k;
    T* const y[1] = {row<T>(a.y, n)};
    write_rows(y, a.d, a.past_caches, [&](auto at, auto(&r)[1]) {
        r[0] = r[0].zero();
        for (int64_t i = 0; i < a.k; ++i) {
            const auto x = at.load(row<T>(a.x, position[i]));
            r[0] = weights == nullptr ? r[0] + x : fma(x, V::set(weights[i]), r[0]);
        }
    });
}

// dx[position[n, j]] = weights[n, j] dy[n] and dweights[n, j] = dy[n] . x[position[n, j]].
template <class T>
inline void combine_backward_token(const CombineArgs& a, int64_t n) {
    const T* dy = row<T>(a.dy, n);
    for (int64_t i = 0; i < a.k; ++i) {
        const int64_t at = a.position[n * a.k + i];
        const T* x = row<T>(a.x, at);
        float dot[1];
        sum_row(a.d, dot, [&](auto at, auto(&s)[1]) { s[0] = fma(at.load(dy), at.load(x), s[0]); });
        a.dweights[n * a.k + i] = dot[0];
        const V weight = V::set(a.weights[n * a.k + i]);
        T* const dx[1] = {row<T>(a.y, at)};
        write_rows(dx, a.d, a.past_caches, [&](auto at, auto(&r)[1]) { r[0] = at.load(dy) * weight; });
    }
}

struct CombineCall {
    CombineArgs args;
    int fault;
};

template <class T>
inline int combine(const CombineArgs& args, int threads) {
    CombineCall call{args, 0};
    run_team(
        worthwhile(threads, static_cast<double>(args.n * args.k) * static_cast<double>(args.d) * 0.3),
        [](const Team& team, void* context) {
            CombineCall& c = *static_cast<CombineCall*>(context);
            const CombineArgs& a = c.args;
            int64_t start, stop;
            team.split(a.n, 1, &start, &stop);
            for (int64_t i = start * a.k; i < stop * a.k; ++i) {
                if (a.position[i] < 0 || a.position[i] >= a.n * a.k)
                    __atomic_store_n(&c.fault, kBadIndex, __ATOMIC_RELAXED);
            }
            team.barrier();
            if (c.fault != 0) return;
            for (int64_t n = start; n < stop; ++n) {
                if (a.dy.data == nullptr) {
                    combine_token<T>(a, n);
                } else {
                    combine_backward_token<T>(a, n);
                }
            }
            if (a.past_caches) stream_end();
        },
        &call);
    return call.fault;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
