// SwiGLU (Shazeer, arXiv:2002.05202).
#pragma once
#include "../../simd/math.h"
#include "../core/stream.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

template <class T>
inline void swiglu_row(const SwigluArgs& a, int64_t i) {
    const T *gate = row<T>(a.gate, i), *up = row<T>(a.up, i);
    T* const y[1] = {row<T>(a.y, i)};
    write_rows(y, a.n, a.past_caches, [&](int64_t j, int lanes, V(&r)[1]) {
        const V g = load_part(gate + j, lanes);
        r[0] = g * sigmoid(g) * load_part(up + j, lanes);
    });
}

template <class T>
inline void swiglu_backward_row(const SwigluArgs& a, int64_t i) {
    const T *gate = row<T>(a.gate, i), *up = row<T>(a.up, i), *dy = row<T>(a.dy, i);
    T* const out[2] = {row<T>(a.dgate, i), row<T>(a.dup, i)};
    write_rows(out, a.n, a.past_caches, [&](int64_t j, int lanes, V(&r)[2]) {
        const V g = load_part(gate + j, lanes), d = load_part(dy + j, lanes), s = sigmoid(g);
        // d silu / dg = s (1 + g (1 - s))
        r[0] = d * load_part(up + j, lanes) * fma(s * g, V::set(1.0f) - s, s);
        r[1] = d * (g * s);
    });
}

template <class T>
inline int swiglu(const SwigluArgs& args, int threads) {
    SwigluArgs call = args;
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.n) * 0.5),
        [](const Team& team, void* context) {
            int64_t start, stop;
            const SwigluArgs& a = *static_cast<SwigluArgs*>(context);
            team.split(a.m, 1, &start, &stop);
            for (int64_t i = start; i < stop; ++i) {
                if (a.dy.data == nullptr) {
                    swiglu_row<T>(a, i);
                } else {
                    swiglu_backward_row<T>(a, i);
                }
            }
            if (a.past_caches) stream_end();
        },
        &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
