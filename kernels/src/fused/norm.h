// Root-mean-square norm, forward and backward (Zhang & Sennrich, arXiv:1910.07467).
//
// Letters: M rows, D width.
#pragma once
#include "../core/rows.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

inline int rms_norm(const NormArgs& args, int threads) {
    NormArgs call = args;
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.d) * 0.2),
        [](const Team& team, void* context) {
            const NormArgs& a = *static_cast<NormArgs*>(context);
            const float share = 1.0f / static_cast<float>(a.d), eps = static_cast<float>(a.eps);
            int64_t start, stop;
            team.split(a.m, 1, &start, &stop);
            for (int64_t i = start; i < stop; ++i) {
                const float* x = a.x + i * a.x_rs;
                float* y = a.y + i * a.y_rs;
                const float squares = sum_of(a.d, [&](int64_t j, int lanes, V s) {
                    const V t = load_part(x + j, lanes);
                    return fma(t, t, s);
                });
                const V scale = V::set(1.0f) / sqrt(V::set(squares * share + eps));
                scale.store_n(a.rstd + i, 1);
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
            const float share = 1.0f / static_cast<float>(a.d);
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
                    const V scale = V::set(rstd), pull = V::set(rstd * rstd * rstd * (dot * share));
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
