// What an optimizer does with flat buffers: AdamW (Loshchilov & Hutter, arXiv:1711.05101) and the sum of squares that
// a gradient's norm is made of.
#pragma once
#include "../../simd/wide.h"
#include "../core/rows.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

struct AdamwCall {
    AdamwArgs a;
    float decay, step_size, root_scale;
};

// G: the gradient's type, M: that of the model's copy of the weights.
template <class G, class M>
inline void adamw_range(const AdamwCall& call, int64_t start, int64_t stop) {
    const AdamwArgs& a = call.a;
    const V beta1 = V::set(static_cast<float>(a.beta1)), rest1 = V::set(static_cast<float>(1.0 - a.beta1));
    const V beta2 = V::set(static_cast<float>(a.beta2)), rest2 = V::set(static_cast<float>(1.0 - a.beta2));
    const V eps = V::set(static_cast<float>(a.eps)), scale = V::set(static_cast<float>(a.grad_scale));
    const V decay = V::set(call.decay), step_size = V::set(call.step_size), root_scale = V::set(call.root_scale);
    const G* grad = static_cast<const G*>(a.grad) + start;
    float *param = a.param + start, *exp_avg = a.exp_avg + start, *exp_avg_sq = a.exp_avg_sq + start;
    M* model = a.model == nullptr ? nullptr : static_cast<M*>(a.model) + start;
    for_vectors(stop - start, [&](int64_t i, int lanes) {
        const V g = load_part(grad + i, lanes) * scale;
        const V m = fma(beta1, load_part(exp_avg + i, lanes), rest1 * g);
        const V v = fma(beta2, load_part(exp_avg_sq + i, lanes), rest2 * g * g);
        const V denominator = fma(sqrt(v), root_scale, eps);
        const V p = fnma(step_size, m / denominator, load_part(param + i, lanes) * decay);
        store_part(m, exp_avg + i, lanes);
        store_part(v, exp_avg_sq + i, lanes);
        store_part(p, param + i, lanes);
        if (model != nullptr) store_part(p, model + i, lanes);
    });
}

template <class G, class M>
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
            adamw_range<G, M>(c, start, stop);
        },
        &call);
    return 0;
}

template <class T>
inline double squares_of_block(const T* x, int64_t n) {
    Wide s[4] = {wide_zero(), wide_zero(), wide_zero(), wide_zero()};
    int64_t i = 0;
    for (; i + 4 * V::N <= n; i += 4 * V::N) {
        JPLLM_UNROLL for (int j = 0; j < 4; ++j)
            s[j] = add_square(s[j], V::load(x + i + j * V::N));
    }
    for_vectors(n - i, [&](int64_t j, int lanes) { s[0] = add_square(s[0], load_part(x + i + j, lanes)); });
    return sum((s[0] + s[1]) + (s[2] + s[3]));
}

// Elements are summed in blocks, whatever the threads, and the blocks in order.
constexpr int64_t kSquaresBlock = 1 << 14;

struct SquaresCall {
    SquaresArgs args;
    double* blocks;
};

template <class T>
inline int sum_of_squares(const SquaresArgs& args, int threads) {
    const int64_t count = (args.n + kSquaresBlock - 1) / kSquaresBlock;
    SquaresCall call{args, static_cast<double*>(workspace(static_cast<size_t>(count + 1) * sizeof(double)))};
    if (call.blocks == nullptr) return 1;
    run_team(
        worthwhile(threads, static_cast<double>(args.n) * 0.2),
        [](const Team& team, void* context) {
            const SquaresCall& c = *static_cast<SquaresCall*>(context);
            int64_t start, stop;
            team.split(c.args.n, kSquaresBlock, &start, &stop);
            for (int64_t i = start; i < stop; i += kSquaresBlock) {
                c.blocks[i / kSquaresBlock] =
                    squares_of_block(static_cast<const T*>(c.args.x) + i, least(kSquaresBlock, stop - i));
            }
        },
        &call);
    double total = 0;
    for (int64_t b = 0; b < count; ++b) total += call.blocks[b];
    *args.sum = total;
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
