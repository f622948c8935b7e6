// SwiGLU (Shazeer, arXiv:2002.05202).
#pragma once
#include "../../simd/math.h"
#include "../core/rows.h"
#include "args.h"

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

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
