// AdamW (Loshchilov & Hutter, arXiv:1711.05101).
#pragma once
#include "../core/rows.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

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
        if (a.model != nullptr) store_part(p, reinterpret_cast<bf16*>(a.model) + i, lanes);
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

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
