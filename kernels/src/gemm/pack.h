// Packing: blocks of A and B as the micro-kernel reads them, converted to FP32 on the way.
//
// A block is cut into slivers of W lines (rows of A or columns of B); a sliver holds, for each k, the W elements of its
// lines side by side, and zeroes beyond the last line. Sliver s of k steps starts at s * W * k.
#pragma once
#include "tile.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// Stores W lines' elements of one k, or, where a vector holds two slivers' lines, each half to its own.
template <int W>
inline void store_lines(V x, float* to, int64_t sliver) {
    if constexpr (2 * W == V::N) {
        x.store_halves(to, to + sliver);
    } else {
        x.store(to);
    }
}

// Element (line, p) lies at from[line * line_stride + p * k_stride].
template <int W, class T>
inline void pack(const T* from, int64_t line_stride, int64_t k_stride, int64_t lines, int64_t k, float* to) {
    constexpr int at_once = W < V::N ? V::N : W;  // lines
    static_assert(W % V::N == 0 || 2 * W == V::N, "slivers are whole vectors wide, or half of one");
    const int64_t sliver = W * k;
    int64_t line = 0;
    if (k_stride == 1) {
        for (; line + at_once <= lines; line += at_once) {
            float* at = to + line * k;
            int64_t p = 0;
            for (; p + V::N <= k; p += V::N) {
                JPLLM_UNROLL for (int g = 0; g < at_once; g += V::N) {
                    V r[V::N];
                    load_transposed(r, from + (line + g) * line_stride + p, line_stride);
                    JPLLM_UNROLL for (int l = 0; l < V::N; ++l)
                        store_lines<W>(r[l], at + (p + l) * W + g, sliver);
                }
            }
            for (; p < k; ++p) {
                for (int l = 0; l < at_once; ++l) {
                    at[l / W * sliver + p * W + l % W] = to_float(from[(line + l) * line_stride + p]);
                }
            }
        }
    } else if (line_stride == 1) {
        constexpr int64_t ahead = 8;
        for (; line + at_once <= lines; line += at_once) {
            const T* source = from + line;
            float* at = to + line * k;
            for (int64_t p = 0; p < k; ++p, source += k_stride, at += W) {
                prefetch(source + ahead * k_stride);
                prefetch(source + ahead * k_stride + at_once - 1);
                JPLLM_UNROLL for (int g = 0; g < at_once; g += V::N)
                    store_lines<W>(V::load(source + g), at + g, sliver);
            }
        }
    }
    for (; line < lines; line += W) {
        const int count = static_cast<int>(least(W, lines - line));
        const T* source = from + line * line_stride;
        float* at = to + line * k;
        for (int64_t p = 0; p < k; ++p, source += k_stride, at += W) {
            for (int l = 0; l < count; ++l) at[l] = to_float(source[l * line_stride]);
            for (int l = count; l < W; ++l) at[l] = 0.0f;
        }
    }
}

// Calls f(typed pointer to element (i, j) of x).
template <class F>
inline void at_element(const Operand& x, int64_t i, int64_t j, F f) {
    const int64_t offset = i * x.rs + j * x.cs;
    switch (x.type) {
        case kBf16:
            return f(static_cast<const bf16*>(x.data) + offset);
        case kFp16:
            return f(static_cast<const fp16*>(x.data) + offset);
        default:
            return f(static_cast<const float*>(x.data) + offset);
    }
}

// How n columns of B are cut into slivers of VECTORS vectors of LANES. Where one vector would be left, the last whole
// sliver and it make two of two: the tile of a single vector has too few sums to cover their latency.
template <int VECTORS, int LANES>
struct SliversOf {
    int64_t columns, whole, count;

    explicit SliversOf(int64_t n) : columns(n) {
        const int64_t vectors = (n + LANES - 1) / LANES, left = vectors % VECTORS;
        whole = vectors / VECTORS;
        count = whole + (left > 0 ? 1 : 0);
        if (VECTORS == 3 && left == 1 && whole > 0) --whole;  // count stays: two slivers for what was one and a rest
    }
    int64_t start(int64_t s) const {
        if (s >= count) return columns;
        return s <= whole ? s * VECTORS * LANES : whole * VECTORS * LANES + (s - whole) * 2 * LANES;
    }
    int cols(int64_t s) const { return static_cast<int>(start(s + 1) - start(s)); }
    int vectors(int64_t s) const { return (cols(s) + LANES - 1) / LANES; }
};

// The engine in FP32: how blocks are packed and multiplied. `floats` is the room of one packed line of k elements,
// `steps` how many steps of a tile those are, block_k the most of them in a block, k_unit what a block is a multiple
// of.
struct Fp32 {
    static constexpr int rows = kTileRows, vectors = kTileVectors, lanes = V::N, cols = kTileCols;
    static constexpr int64_t block_k = Tuning::block_k;
    static constexpr bool in_place = true;
    using Slivers = SliversOf<vectors, lanes>;

    static constexpr int64_t floats(int64_t k) { return k; }
    static int64_t steps(int64_t k) { return k; }
    static int64_t k_unit(const GemmArgs&) { return 1; }

    // Rows [i0, i1) x steps [p0, p1) of A.
    static void pack_a(const Operand& a, int64_t i0, int64_t i1, int64_t p0, int64_t p1, float* to) {
        at_element(a, i0, p0, [&](auto* from) { pack<rows>(from, a.rs, a.cs, i1 - i0, p1 - p0, to); });
    }
    // One sliver of B: `width` vectors from column j, of which n columns exist.
    static void pack_b(const Operand& b, int64_t p0, int64_t p1, int64_t j, int n, int width, float* to) {
        at_element(b, p0, j, [&](auto* from) {
            if (width == vectors) {
                pack<cols>(from, b.cs, b.rs, n, p1 - p0, to);
            } else if (width == 2) {
                pack<2 * V::N>(from, b.cs, b.rs, n, p1 - p0, to);
            } else {
                pack<V::N>(from, b.cs, b.rs, n, p1 - p0, to);
            }
        });
    }
    static TileFunction tile(int tile_rows, int width) { return tile_for<true>(tile_rows, width); }
};

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
