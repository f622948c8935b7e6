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
    write_rows(y, a.n, a.past_caches, [&](auto at, auto(&r)[1]) {
        const auto g = at.load(gate);
        prefetch_step(gate + at.j + kAhead), prefetch_step(up + at.j + kAhead);
        r[0] = g * sigmoid(g) * at.load(up);
    });
}

template <class T>
inline void swiglu_backward_row(const SwigluArgs& a, int64_t i) {
    const T *gate = row<T>(a.gate, i), *up = row<T>(a.up, i), *dy = row<T>(a.dy, i);
    T* const out[2] = {row<T>(a.dgate, i), row<T>(a.dup, i)};
    write_rows(out, a.n, a.past_caches, [&](auto at, auto(&r)[2]) {
        const auto g = at.load(gate), s = sigmoid(g), d = at.load(dy);
        prefetch_step(gate + at.j + kAhead), prefetch_step(up + at.j + kAhead), prefetch_step(dy + at.j + kAhead);
        // d silu / dg = s (1 + g (1 - s))
        r[0] = d * at.load(up) * fma(s * g, decltype(s * s)::set(1.0f) - s, s);
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
