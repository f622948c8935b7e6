// The engine for BF16 times BF16 by the dot product of pairs (simd/avx512bf16.h): two steps of K at once.
//
// Packed as Fp32's blocks are, with a 32-bit pair of elements where that has one element: a sliver holds, for each two
// steps of K, the pairs of its W lines side by side. An odd K has a zero behind it in both operands.
#pragma once
#include "finish.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// Whether a product is computed by pairs: its operands are BF16 and there is a dot product of them.
inline bool by_pairs(const GemmArgs& g) {
#if defined(JPLLM_BF16_DOT)
    return g.a.type == kBf16 && g.b.type == kBf16 && (!there(g.up) || g.up.type == kBf16);
#else
    return (void)g, false;
#endif
}

#if defined(JPLLM_BF16_DOT)

struct DotAdd {
    static V add(V a, V b, V sum) { return dot(a, b, sum); }
};

// 2 V::N elements of each of `count` lines, turned: r[s] holds the pairs of step s.
inline void turn_pairs(V (&r)[V::N], const bf16* from, int64_t line_stride, int count, int n) {
    if (count == V::N && n == 2 * V::N) {
        JPLLM_UNROLL for (int l = 0; l < V::N; ++l)
            r[l] = V::load(reinterpret_cast<const float*>(from + l * line_stride));
    } else {
        for (int l = 0; l < V::N; ++l) r[l] = l < count ? load_line(from + l * line_stride, n) : V::zero();
    }
    transpose(r);
}

// One step of `count` lines that lie anyhow; no `next` where K is odd and ends.
inline V gather_pairs(const bf16* from, const bf16* next, int64_t line_stride, int count) {
    bf16 low[V::N] = {}, high[V::N] = {};
    for (int l = 0; l < count; ++l) {
        low[l] = from[l * line_stride];
        if (next != nullptr) high[l] = next[l * line_stride];
    }
    return load_pairs(low, high, V::N);
}

// Element (line, p) lies at from[line * line_stride + p * k_stride]. Whole registers of lines are written: where W is
// half of one there must be room for a sliver more.
template <int W>
inline void pack_pairs(const bf16* from, int64_t line_stride, int64_t k_stride, int64_t lines, int64_t k, float* to) {
    constexpr int at_once = W < V::N ? V::N : W;  // lines
    static_assert(W % V::N == 0 || 2 * W == V::N, "slivers are whole vectors wide, or half of one");
    constexpr int64_t ahead = 8;
    const int64_t sliver = W * ((k + 1) / 2);
    for (int64_t line = 0; line < lines; line += at_once, from += at_once * line_stride) {
        float* at = to + line * ((k + 1) / 2);
        const auto count = [&](int g) {
            return static_cast<int>(lines - line < g ? 0 : least(V::N, lines - line - g));
        };
        if (k_stride == 1) {
            for (int64_t p = 0; p < k; p += 2 * V::N, at += V::N * W) {
                const int n = static_cast<int>(least(2 * V::N, k - p));
                for (int g = 0; g < at_once; g += V::N) {
                    V r[V::N];
                    turn_pairs(r, from + g * line_stride + p, line_stride, count(g), n);
                    if (n == 2 * V::N) {
                        JPLLM_UNROLL for (int s = 0; s < V::N; ++s)
                            store_lines<W>(r[s], at + s * W + g, sliver);
                    } else {
                        for (int s = 0; s < (n + 1) / 2; ++s) store_lines<W>(r[s], at + s * W + g, sliver);
                    }
                }
            }
            continue;
        }
        const bf16* source = from;
        for (int64_t p = 0; p < k; p += 2, source += 2 * k_stride, at += W) {
            const bf16* next = p + 1 < k ? source + k_stride : nullptr;
            if (line_stride == 1) prefetch(source + ahead * k_stride), prefetch(source + (ahead + 1) * k_stride);
            JPLLM_UNROLL for (int g = 0; g < at_once; g += V::N) {
                const bf16 *low = source + g * line_stride, *high = next == nullptr ? nullptr : next + g * line_stride;
                const V x =
                    line_stride == 1 ? load_pairs(low, high, count(g)) : gather_pairs(low, high, line_stride, count(g));
                store_lines<W>(x, at + g, sliver);
            }
        }
    }
}

struct Bf16 {
    static constexpr int rows = kTileRows, vectors = kTileVectors, lanes = V::N, cols = kTileCols;
    static constexpr int64_t block_k = 2 * Tuning::block_k;  // as many bytes as Fp32's
    static constexpr bool in_place = false;
    using Slivers = SliversOf<vectors, lanes>;

    static constexpr int64_t floats(int64_t k) { return (k + 1) / 2; }
    static constexpr int64_t steps(int64_t k) { return (k + 1) / 2; }
    static int64_t k_unit(const GemmArgs&) { return 1; }

    static const bf16* at(const Operand& x, int64_t i, int64_t j) {
        return static_cast<const bf16*>(x.data) + i * x.rs + j * x.cs;
    }
    static void pack_a(const Operand& a, int64_t i0, int64_t i1, int64_t p0, int64_t p1, float* to) {
        pack_pairs<rows>(at(a, i0, p0), a.rs, a.cs, i1 - i0, p1 - p0, to);
    }
    static void pack_b(const Operand& b, int64_t p0, int64_t p1, int64_t j, int n, int width, float* to) {
        const bf16* from = at(b, p0, j);
        if (width == vectors) {
            pack_pairs<cols>(from, b.cs, b.rs, n, p1 - p0, to);
        } else if (width == 2) {
            pack_pairs<2 * V::N>(from, b.cs, b.rs, n, p1 - p0, to);
        } else {
            pack_pairs<V::N>(from, b.cs, b.rs, n, p1 - p0, to);
        }
    }
    static TileFunction tile(int tile_rows, int width) { return tile_for<true, DotAdd>(tile_rows, width); }
};

#endif

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
