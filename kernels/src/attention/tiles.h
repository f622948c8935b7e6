// The micro-kernels of attention: sums of outer products kept in registers. An engine says what a step of a product is
// and how operands are packed: InFloats here, InPairs (two steps of BF16 at once) in pairs.h. Packed operands are
// 32-bit words in both, `pack` steps each.
#pragma once
#include "../../simd/lanes.h"
#include "tuning.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

constexpr int kRows = AttentionTuning::rows, kVectors = AttentionTuning::vectors;
constexpr int kLanes = kVectors * V::N;  // queries of a tile
constexpr int kKeys = AttentionTuning::keys;
constexpr int kSweep = AttentionTuning::sweep * kLanes;  // queries of a step of backward
constexpr int kWideRows = AttentionTuning::wide_rows, kWideVectors = AttentionTuning::wide_vectors;

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

JPLLM_INLINE int64_t whole(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

struct FloatTile;
struct InFloats {
    using Tile = FloatTile;
    static constexpr int pack = 1;
    static int64_t pitch(int64_t dim) { return whole(dim, 16); }  // words of a row
    static int64_t steps(int64_t dim) { return dim; }
    static V add(V a, V b, V sum) { return fma(a, b, sum); }

    // Of Q and of Q's rows in backward where they are copied, of the scores, of dK. The scores' unit is a power of two.
    float query_factor, row_factor, score_factor = 1.0f, key_slope_factor = 1.0f;
    explicit InFloats(double scale)
        : query_factor(static_cast<float>(scale * kLog2E)), row_factor(static_cast<float>(scale)) {}
    V scaled(V score) const { return score; }
    static void zero_lanes(float* p_row, float* ds_row, int lane) {
        V::zero().store(p_row + lane), V::zero().store(ds_row + lane);
    }
};

template <class M, int MR, int NV>
JPLLM_INLINE void multiply_step(const float* a, int64_t a_row, const float* b, V (&acc)[MR][NV]) {
    V row[NV];
    JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
        row[j] = V::load(b + j * V::N);
        in_register(row[j]);
    }
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        V x = V::set(a[i * a_row]);
        in_register(x);
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            acc[i][j] = M::add(x, row[j], acc[i][j]);
    }
}

// acc[i][j] = sum over p < n of a[i * a_row + p * a_step] * b[p * b_step + j * V::N + lane]; one of a's strides is 1.
// Strides and n count words.
template <class M, int MR, int NV>
JPLLM_INLINE void multiply(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t n,
                           V (&acc)[MR][NV]) {
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            acc[i][j] = V::zero();
    }
    for (int64_t p = 0; p < n; ++p, a += a_step, b += b_step) multiply_step<M, MR, NV>(a, a_row, b, acc);
}

// Which keys each of NV vectors of queries sees: key in [low, high] and, where ranks are given, of the query's rank.
struct Sight {
    const float *low, *high, *rank;  // a number a lane
    const float* key_rank;           // a number a key of the block, or null
    int64_t key;                     // the first row's key
};

template <int MR, int NV>
JPLLM_INLINE void hide(const Sight& sight, V (&s)[MR][NV]) {
    const V no = V::set(-__builtin_inff());
    JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
        const V low = V::load(sight.low + j * V::N), high = V::load(sight.high + j * V::N);
        JPLLM_UNROLL for (int i = 0; i < MR; ++i)
            s[i][j] = where_within(V::set(static_cast<float>(sight.key + i)), low, high, s[i][j], no);
        if (sight.key_rank != nullptr) {
            const V rank = V::load(sight.rank + j * V::N);
            JPLLM_UNROLL for (int i = 0; i < MR; ++i)
                s[i][j] = where_within(V::set(sight.key_rank[i]), rank, rank, s[i][j], no);
        }
    }
}

// Scores of kRows keys and NV vectors of queries into s, and their maxima into peak.
template <class M, int NV, bool kHide>
__attribute__((noinline)) void score_tile(const float* k, int64_t pitch, const float* qt, int64_t dim, float* s,
                                          float* peak, const Sight* sight) {
    V acc[kRows][NV];
    multiply<M, kRows, NV>(k, pitch, 1, qt, kLanes, M::steps(dim), acc);
    if (kHide) hide<kRows, NV>(*sight, acc);
    JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
        V top = V::load(peak + j * V::N);
        JPLLM_UNROLL for (int i = 0; i < kRows; ++i) {
            top = max(acc[i][j], top);
            acc[i][j].store(s + i * kLanes + j * V::N);
        }
        top.store(peak + j * V::N);
    }
}

// Values (and, in backward, keys) lie in panels of channels, a panel [kKeys / pack][width], so that panel and channel d
// begin at d * kKeys / pack. With 16 registers panels of 6 channels are followed by as few of 4 as make the sum.
JPLLM_INLINE int64_t padded_channels(int64_t dim) {
    if (kRows != 6) return (dim + kRows - 1) / kRows * kRows;
    return dim < 4 ? 4 : (dim + 1) / 2 * 2;
}

JPLLM_INLINE int64_t full_panels(int64_t dim) {  // channels in panels of kRows
    const int64_t channels = padded_channels(dim);
    return kRows != 6 ? channels : channels - (6 - channels % 6) % 6 * 2;
}

// o[i][lane] = o[i][lane] * factor[lane] + sum over n words of a[word][i] * p[word][lane], for a panel of MR channels
// and rows of p that are P apart. No factor is a factor of 1.
template <class M, int MR, int NV, int P>
__attribute__((noinline)) void channel_tile(const float* a, const float* p, int64_t n, float* o, const float* factor) {
    V acc[MR][NV];
    multiply<M, MR, NV>(a, 1, MR, p, P, n, acc);
    JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
        if (factor != nullptr) {
            const V f = V::load(factor + j * V::N);
            JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
                float* to = o + i * kLanes + j * V::N;
                fma(V::load(to), f, acc[i][j]).store(to);
            }
        } else {
            JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
                float* to = o + i * kLanes + j * V::N;
                (V::load(to) + acc[i][j]).store(to);
            }
        }
    }
}

template <class M, int NV, int P>
JPLLM_INLINE void add_panels(const float* a, int64_t key, const float* p, int64_t n, int64_t dim, float* o,
                             const float* factor) {
    constexpr int kWords = kKeys / M::pack;
    const int64_t full = full_panels(dim), all = padded_channels(dim), word = key / M::pack;
    for (int64_t d = 0; d < full; d += kRows) {
        channel_tile<M, kRows, NV, P>(a + d * kWords + word * kRows, p, n / M::pack, o + d * kLanes, factor);
    }
    if (kRows != 6) return;
    for (int64_t d = full; d < all; d += 4) {
        channel_tile<M, 4, NV, P>(a + d * kWords + word * 4, p, n / M::pack, o + d * kLanes, factor);
    }
}

// All channels of n keys from `key` on: o[d][lane] (times its factor) += a^T p, for 1 to kVectors vectors of lanes.
template <class M, int P>
JPLLM_INLINE void add_channels(int vectors, const float* a, int64_t key, const float* p, int64_t n, int64_t dim,
                               float* o, const float* factor) {
    if (vectors == 1) {
        add_panels<M, 1, P>(a, key, p, n, dim, o, factor);
    } else if (vectors == 2) {
        add_panels<M, 2, P>(a, key, p, n, dim, o, factor);
    } else {
        add_panels<M, kVectors, P>(a, key, p, n, dim, o, factor);
    }
}

// Backward: P^T and dS^T of a block of keys and a step of queries. Rows are kSweep / pack words; `turned` is dS^T for
// the product with K, rows of kSweep words, the same as ds in floats.
struct BackwardScratch {
    float *p, *ds, *turned, *exact;
};

// Backward: what becomes of a tile of scores and of one of dP; kRows keys and NV vectors of queries from `lane` on.
struct FloatTile {
    float *p, *ds;  // rows of kSweep
    const float *lse, *delta;

    FloatTile(const InFloats&, const BackwardScratch& x, int64_t row, int lane, const float* lse_at,
              const float* delta_at)
        : p(x.p + row * kSweep + lane), ds(x.ds + row * kSweep + lane), lse(lse_at), delta(delta_at) {}

    // The softmax again from its log-sum-exp.
    template <int NV>
    JPLLM_INLINE void take_scores(V (&acc)[kRows][NV]) const {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
            const V less = V::load(lse + j * V::N);
            JPLLM_UNROLL for (int i = 0; i < kRows; ++i)
                exp2_negative(acc[i][j] - less).store(p + i * kSweep + j * V::N);
        }
    }
    // The scores' gradient: ds = p (dp - delta).
    template <int NV>
    JPLLM_INLINE void take_slopes(V (&acc)[kRows][NV]) const {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
            const V less = V::load(delta + j * V::N);
            JPLLM_UNROLL for (int i = 0; i < kRows; ++i) {
                const int64_t at = i * kSweep + j * V::N;
                (V::load(p + at) * (acc[i][j] - less)).store(ds + at);
            }
        }
    }
};

// p = exp2(k qt - lse).
template <class M, int NV, bool kHide>
__attribute__((noinline)) void probability_tile(const float* k, int64_t pitch, const float* qt, int64_t dim,
                                                const typename M::Tile& tile, const Sight* sight) {
    V acc[kRows][NV];
    multiply<M, kRows, NV>(k, pitch, 1, qt, kLanes, M::steps(dim), acc);
    if (kHide) hide<kRows, NV>(*sight, acc);
    tile.take_scores(acc);
}

// ds = p (v gt - delta).
template <class M, int NV>
__attribute__((noinline)) void slope_tile(const float* v, int64_t pitch, const float* gt, int64_t dim,
                                          const typename M::Tile& tile) {
    V acc[kRows][NV];
    multiply<M, kRows, NV>(v, pitch, 1, gt, kLanes, M::steps(dim), acc);
    tile.take_slopes(acc);
}

// out[row][d] += sum over n words of queries of p[row][word] * x[word][d], for kWideRows keys and NV vectors of
// channels.
template <class M, int NV>
__attribute__((noinline)) void key_tile(const float* p, const float* x, int64_t pitch, int64_t n, float* out) {
    V acc[kWideRows][NV];
    multiply<M, kWideRows, NV>(p, kSweep / M::pack, 1, x, pitch, n, acc);
    JPLLM_UNROLL for (int i = 0; i < kWideRows; ++i) {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
            float* to = out + i * pitch + j * V::N;
            (V::load(to) + acc[i][j]).store(to);
        }
    }
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
