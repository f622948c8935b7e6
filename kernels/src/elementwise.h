// Kernels without sums: SwiGLU (Shazeer, arXiv:2002.05202), AdamW (arXiv:1711.05101), and the multiply-add peak.
#pragma once
#include "../simd/math.h"
#include "norm.h"
#include "table.h"
#include "team.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

inline void swiglu_rows(const SwigluArgs& a, int64_t start, int64_t stop) {
    for (int64_t i = start; i < stop; ++i) {
        const float *gate = a.gate + i * a.gate_rs, *up = a.up + i * a.up_rs;
        if (a.dy == nullptr) {
            float* y = a.y + i * a.y_rs;
            for_vectors(a.n, [&](int64_t j, int lanes) {
                const V g = load_part(gate + j, lanes);
                store_part(g * sigmoid(g) * load_part(up + j, lanes), y + j, lanes);
            });
            continue;
        }
        const float* dy = a.dy + i * a.dy_rs;
        float *dgate = a.dgate + i * a.dgate_rs, *dup = a.dup + i * a.dup_rs;
        for_vectors(a.n, [&](int64_t j, int lanes) {
            const V g = load_part(gate + j, lanes), d = load_part(dy + j, lanes), s = sigmoid(g);
            // d silu / dg = s (1 + g (1 - s))
            const V slope = fma(s * g, V::set(1.0f) - s, s);
            store_part(d * load_part(up + j, lanes) * slope, dgate + j, lanes);
            store_part(d * (g * s), dup + j, lanes);
        });
    }
}

inline int swiglu(const SwigluArgs& args, int threads) {
    SwigluArgs call = args;
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.n) * 0.5),
        [](const Team& team, void* context) {
            int64_t start, stop;
            const SwigluArgs& a = *static_cast<SwigluArgs*>(context);
            team.split(a.m, 1, &start, &stop);
            swiglu_rows(a, start, stop);
        },
        &call);
    return 0;
}

struct AdamwCall {
    AdamwArgs a;
    float decay, step_size, root_scale;
};

inline void adamw_range(const AdamwCall& call, int64_t start, int64_t stop) {
    const AdamwArgs& a = call.a;
    const V beta1 = V::set(static_cast<float>(a.beta1)), rest1 = V::set(static_cast<float>(1.0 - a.beta1));
    const V beta2 = V::set(static_cast<float>(a.beta2)), rest2 = V::set(static_cast<float>(1.0 - a.beta2));
    const V eps = V::set(static_cast<float>(a.eps)), scale = V::set(static_cast<float>(a.grad_scale));
    const V decay = V::set(call.decay), step_size = V::set(call.step_size), root_scale = V::set(call.root_scale);
    for_vectors(stop - start, [&](int64_t offset, int lanes) {
        const int64_t i = start + offset;
        const V g = load_part(a.grad + i, lanes) * scale;
        const V m = fma(beta1, load_part(a.exp_avg + i, lanes), rest1 * g);
        const V v = fma(beta2, load_part(a.exp_avg_sq + i, lanes), rest2 * g * g);
        const V denominator = fma(sqrt(v), root_scale, eps);
        const V p = fnma(step_size, m / denominator, load_part(a.param + i, lanes) * decay);
        store_part(m, a.exp_avg + i, lanes);
        store_part(v, a.exp_avg_sq + i, lanes);
        store_part(p, a.param + i, lanes);
        if (a.model != nullptr) p.store_bf16_n(a.model + i, lanes);
    });
}

inline int adamw_step(const AdamwArgs& args, int threads) {
    const double steps = static_cast<double>(args.step);
    const double correction1 = 1.0 - __builtin_pow(args.beta1, steps);
    const double correction2 = 1.0 - __builtin_pow(args.beta2, steps);
    AdamwCall call{args, static_cast<float>(1.0 - args.lr * args.weight_decay),
                   static_cast<float>(args.lr / correction1), static_cast<float>(1.0 / __builtin_sqrt(correction2))};
    run_team(
        worthwhile(threads, static_cast<double>(args.n) * 1.0),
        [](const Team& team, void* context) {
            const AdamwCall& c = *static_cast<AdamwCall*>(context);
            int64_t start, stop;
            team.split(c.a.n, V::N, &start, &stop);
            adamw_range(c, start, stop);
        },
        &call);
    return 0;
}

// 24 chains cover a latency of 9 on two pipes; 12 where there are only 16 registers.
inline double fma_rounds(int64_t rounds, float* sink) {
    constexpr int chains = Tuning::tile_rows * Tuning::tile_vectors;
    V x[chains];
    JPLLM_UNROLL for (int i = 0; i < chains; ++i)
        x[i] = V::set(static_cast<float>(i));
    const V shrink = V::set(0.5f), shift = V::set(*sink);
    for (int64_t r = 0; r < rounds; ++r) {
        JPLLM_UNROLL for (int i = 0; i < chains; ++i)
            x[i] = fma(x[i], shrink, shift);
    }
    V total = V::zero();
    JPLLM_UNROLL for (int i = 0; i < chains; ++i)
        total = total + x[i];
    *sink = sum(total);
    return 2.0 * chains * V::N * static_cast<double>(rounds);
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
