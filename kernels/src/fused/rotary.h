// Rotary positions (Su et al., arXiv:2104.09864), channel i paired with channel i + D/2.
//
// Letters: B batch, S sequence, H heads, D head width. The angle's cosine and sine come in a table.
#pragma once
#include "../core/stream.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// One head of one token. y may be x: both halves of a pair are read before either is written.
template <class T>
inline void rotate(const T* x, T* y, int64_t half, const float* cos, const float* sin, V direction) {
    for_vectors(half, [&](int64_t j, int lanes) {
        const V first = load_part(x + j, lanes), second = load_part(x + half + j, lanes);
        const V c = load_part(cos + j, lanes), s = load_part(sin + j, lanes) * direction;
        store_part(fnma(second, s, first * c), y + j, lanes);
        store_part(fma(first, s, second * c), y + half + j, lanes);
    });
}

// As `rotate`, whole vectors past the caches.
template <class T>
inline void rotate_past(const T* x, T* y, int64_t half, const float* cos, const float* sin, V direction) {
    for (int64_t j = 0; j < half; j += V::N) {
        const V first = V::load(x + j), second = V::load(x + half + j);
        const V c = V::load(cos + j), s = V::load(sin + j) * direction;
        fnma(second, s, first * c).stream(y + j);
        fma(first, s, second * c).stream(y + half + j);
    }
}

template <class T>
inline void rotate_token(const RotaryArgs& a, const RotaryHeads& part, int64_t b, int64_t s) {
    const T* x = static_cast<const T*>(part.x) + b * part.x_stride[0] + s * part.x_stride[1];
    T* y = static_cast<T*>(part.y) + b * part.y_stride[0] + s * part.y_stride[1];
    const float* cos = a.table + b * a.table_stride[0] + s * a.table_stride[1];
    const V direction = V::set(a.direction);
    constexpr uintptr_t unit = V::N * sizeof(T);
    const int64_t width = 2 * a.half;
    if (part.past_caches && a.half % V::N == 0 && part.y_stride[2] == width &&
        reinterpret_cast<uintptr_t>(y) % unit == 0) {
        zero_lines(y, static_cast<size_t>(part.heads * width) * sizeof(T));
        for (int64_t h = 0; h < part.heads; ++h) {
            rotate_past(x + h * part.x_stride[2], y + h * width, a.half, cos, cos + a.half, direction);
        }
        return;
    }
    for (int64_t h = 0; h < part.heads; ++h) {
        rotate(x + h * part.x_stride[2], y + h * part.y_stride[2], a.half, cos, cos + a.half, direction);
    }
}

template <class T>
inline int rotary(const RotaryArgs& args, int threads) {
    RotaryArgs call = args;
    const double elements = static_cast<double>(args.batch) * static_cast<double>(args.tokens) *
                            static_cast<double>((args.q.heads + args.k.heads) * 2 * args.half);
    run_team(
        worthwhile(threads, elements * 0.3),
        [](const Team& team, void* context) {
            const RotaryArgs& a = *static_cast<RotaryArgs*>(context);
            int64_t start, stop;
            team.split(a.batch * a.tokens, 1, &start, &stop);
            for (int64_t n = start; n < stop; ++n) {
                rotate_token<T>(a, a.q, n / a.tokens, n % a.tokens);
                rotate_token<T>(a, a.k, n / a.tokens, n % a.tokens);
            }
            if (a.q.past_caches || a.k.past_caches) stream_end();
        },
        &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
