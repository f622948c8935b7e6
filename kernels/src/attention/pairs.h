// The engine of attention for BF16 by the dot product of pairs (simd/avx512bf16.h), where there is one. Of the five
// operands that are computed, P and dS are rounded to BF16 where they enter a product; scores, softmax and sums are
// FP32, and Q keeps its bits: the scale is in the exponent's argument.
//
//   a word holds two of     channels d, d + 1        keys t, t + 1           queries s, s + 1
//   in                      K, V rows; Q^T, dO^T     V, K panels; P, dS      dO, Q rows; P, dS
//   for the product         K Q^T, V dO^T            V^T P^T, K^T dS^T       P^T dO, dS^T Q
//
// So backward keeps dS twice: by pairs of queries (`ds`, rows of BF16) and by pairs of keys (`turned`).
#pragma once
#include "blocks.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

#if defined(JPLLM_BF16_DOT)

struct PairTile;
struct InPairs {
    using Tile = PairTile;
    static constexpr int pack = 2;
    static int64_t pitch(int64_t dim) { return whole(dim, 32) / 2; }
    static int64_t steps(int64_t dim) { return (dim + 1) / 2; }
    static V add(V a, V b, V sum) { return dot(a, b, sum); }

    float query_factor = 1.0f, row_factor = 1.0f, score_factor, key_slope_factor;
    explicit InPairs(double scale)
        : score_factor(static_cast<float>(scale * kLog2E)), key_slope_factor(static_cast<float>(scale)) {}
    V scaled(V score) const { return score * V::set(score_factor); }
    static void zero_lanes(float* p_row, float* ds_row, int lane) {
        store_halves(V::zero(), reinterpret_cast<bf16*>(p_row) + lane, reinterpret_cast<bf16*>(ds_row) + lane);
    }
};

template <class T>
inline void copy_rows(InPairs, const HeadsView& x, int64_t batch, int64_t head, int64_t dim, int64_t begin, int64_t end,
                      int64_t rows, float* to) {
    const int64_t pitch = InPairs::pitch(dim);
    for (int64_t row = begin; row < end; ++row, to += pitch) {
        const T* from = row_of<T>(x, batch, row, head);
        for (int64_t d = 0; d < dim; d += 32)
            load_line(from + d, static_cast<int>(at_most(32, dim - d))).store(to + d / 2);
    }
    memset(to, 0, static_cast<size_t>((rows - (end - begin)) * pitch) * sizeof(float));
}

// 16 channels from d on of two keys, into two panels of kRows channels.
JPLLM_INLINE void put_pairs(const bf16* low, const bf16* high, int64_t d, int n, int64_t word, float* panels) {
    static_assert(2 * kRows == V::N, "a vector holds a word of two panels");
    float* to = panels + d * (kKeys / 2) + word * kRows;
    load_pairs(low, high, n).store_halves(to, to + kRows * (kKeys / 2));
}

inline void spread_rows(InPairs, const float* from, int64_t dim, int64_t rows, float* panels) {
    const int64_t pitch = InPairs::pitch(dim);
    for (int64_t row = 0; row < rows; row += 2) {
        const bf16* low = reinterpret_cast<const bf16*>(from + row * pitch);
        for (int64_t d = 0; d < dim; d += V::N) put_pairs(low + d, low + 2 * pitch + d, d, V::N, row / 2, panels);
    }
}

template <class T>
inline void copy_panels(InPairs, const HeadsView& x, int64_t batch, int64_t head, int64_t dim, int64_t begin,
                        int64_t end, int64_t rows, float* to) {
    for (int64_t row = 0; row < rows; row += 2) {
        const int64_t t = begin + row;
        const T* low = t < end ? row_of<T>(x, batch, t, head) : nullptr;
        const T* high = t + 1 < end ? row_of<T>(x, batch, t + 1, head) : nullptr;
        for (int64_t d = 0; d < dim; d += V::N) {
            const int n = low == nullptr ? 0 : static_cast<int>(at_most(V::N, dim - d));
            put_pairs(low + (n > 0 ? d : 0), high == nullptr ? nullptr : high + d, d, n, row / 2, to);
        }
    }
}

// The block's rows turned: to[d / 2 * kLanes + lane]; 0 in lanes that hold no query.
template <class T>
inline void turn_in(InPairs, const HeadsView& x, int64_t batch, int64_t first_head, const Block& block, int64_t dim,
                    float, float* to) {
    for (int v = 0; v < kVectors; ++v, to += V::N) {
        const T* from[V::N];
        const int count = static_cast<int>(at_least(0, at_most(V::N, block.count - v * V::N)));
        for (int l = 0; l < count; ++l) {
            from[l] = row_of<T>(x, batch, block.query[v * V::N + l], first_head + block.head[v * V::N + l]);
        }
        for (int64_t d = 0; d < dim; d += 2 * V::N) {
            V part[V::N];
            const int n = static_cast<int>(at_most(2 * V::N, dim - d));
            for (int l = 0; l < V::N; ++l) part[l] = l < count ? load_line(from[l] + d, n) : V::zero();
            transpose(part);
            V lines[V::N];
            memcpy(lines, part, sizeof lines);
            for (int i = 0; i < (n + 1) / 2; ++i) lines[i].store(to + (d / 2 + i) * kLanes);
        }
    }
}

// The block's rows, two queries a word, zeroes in those that hold none.
template <class T>
inline void gather_rows(InPairs, const HeadsView& x, int64_t batch, int64_t first_head, const Block& block, int64_t dim,
                        float, float* to) {
    const auto row = [&](int lane) {
        return lane < block.count ? row_of<T>(x, batch, block.query[lane], first_head + block.head[lane]) : nullptr;
    };
    for (int lane = 0; lane < kLanes; lane += 2, to += row_pitch(dim)) {
        const T *low = row(lane), *high = row(lane + 1);
        for (int64_t d = 0; d < dim; d += V::N) {
            const int n = low == nullptr ? 0 : static_cast<int>(at_most(V::N, dim - d));
            load_pairs(low + (n > 0 ? d : 0), high == nullptr ? nullptr : high + d, n).store(to + d);
        }
    }
}

// As exponentials of InFloats, but of scores not yet scaled; words of two keys take the place of the rows.
JPLLM_INLINE V exponentials(const InPairs& m, float* s, int rows, V peak, V sum) {
    const V factor = V::set(m.score_factor), less = V::zero() - peak;
    V part[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    float* to = s;
    for (int r = 0; r < rows; r += 4, s += 4 * kLanes, to += 2 * kLanes) {
        V p[4];
        JPLLM_UNROLL for (int i = 0; i < 4; ++i) {
            p[i] = exp2_short(fma(V::load(s + i * kLanes), factor, less));
            part[i] = part[i] + p[i];
        }
        round_pairs(p[0], p[1]).store(to);
        round_pairs(p[2], p[3]).store(to + kLanes);
    }
    return sum + ((part[0] + part[1]) + (part[2] + part[3]));
}

struct PairTile {
    float *p, *ds;  // rows of kSweep BF16
    float* turned;  // rows of kSweep words
    float* exact;   // the tile's p in FP32, rows of kLanes
    const float *lse, *delta;
    float score_factor;

    PairTile(const InPairs& m, const BackwardScratch& x, int64_t row, int lane, const float* lse_at,
             const float* delta_at)
        : p(x.p + (row * kSweep + lane) / 2),
          ds(x.ds + (row * kSweep + lane) / 2),
          turned(x.turned + row / 2 * kSweep + lane),
          exact(x.exact),
          lse(lse_at),
          delta(delta_at),
          score_factor(m.score_factor) {}

    template <int NV>
    JPLLM_INLINE void take_scores(V (&acc)[kRows][NV]) const {
        const V factor = V::set(score_factor);
        JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
            const V less = V::zero() - V::load(lse + j * V::N);
            JPLLM_UNROLL for (int i = 0; i < kRows; i += 2) {
                const V x = exp2_short(fma(acc[i][j], factor, less)), y = exp2_short(fma(acc[i + 1][j], factor, less));
                x.store(exact + i * kLanes + j * V::N), y.store(exact + (i + 1) * kLanes + j * V::N);
                put(round_halves(x, y), p, i, j);
            }
        }
    }
    template <int NV>
    JPLLM_INLINE void take_slopes(V (&acc)[kRows][NV]) const {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
            const V less = V::load(delta + j * V::N);
            JPLLM_UNROLL for (int i = 0; i < kRows; i += 2) {
                const float* at = exact + i * kLanes + j * V::N;
                const V halves =
                    round_halves(V::load(at) * (acc[i][j] - less), V::load(at + kLanes) * (acc[i + 1][j] - less));
                put(halves, ds, i, j);
                in_turn(halves).store(turned + i / 2 * kSweep + j * V::N);
            }
        }
    }

private:
    // Rows i and i + 1, vector j.
    JPLLM_INLINE static void put(V halves, float* rows, int i, int j) {
        float* at = rows + (i * kSweep + j * V::N) / 2;
        halves.store_halves(at, at + kSweep / 2);
    }
};

#endif

// f(engine) with the engine for a storage type. A scale that is not positive would put the largest scores elsewhere.
template <class T, class F>
inline int with_engine(const T*, double scale, F f) {
    return f(InFloats(scale));
}
#if defined(JPLLM_BF16_DOT)
template <class F>
inline int with_engine(const bf16*, double scale, F f) {
    return scale > 0 ? f(InPairs(scale)) : f(InFloats(scale));
}
#endif

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
