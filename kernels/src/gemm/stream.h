// Few rows of A times a B whose rows lie in line: some rows of B are read side by side, their products added to sums in
// L1, and so on down K. What is read and how it is summed is a feed: FP32 from any storage, pairs of BF16 or halves.
//
// The sums are the blocked driver's, bit for bit.
#pragma once
#include "bf16.h"
#include "blocked.h"
#include "fp16.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

constexpr int kGroupRows = 4;         // rows a pass over some of B
constexpr int64_t kStreamCols = 512;  // columns of sums in L1
constexpr int kStreamSteps = 8;       // steps that are taken side by side

// The sums of a block of K are added to those of the blocks before.
inline void add_sums(int64_t m, int64_t cols, const float* more, float* total) {
    for (int64_t i = 0; i < m * kStreamCols; i += kStreamCols) {
        for (int64_t j = i; j < i + cols; j += V::N) (V::load(total + j) + V::load(more + j)).store(total + j);
    }
}

// A feed: Left is what is kept of A a step, Right an element of B, Kept one of the sums; `rows` of B make a step, the
// last of which may be beyond K (not whole). `block` steps of K are summed from `start`; where that is from 0, the
// first block's sums are the total.
template <class T>
struct StreamFloats {
    using Left = float;
    using Right = T;
    using Kept = float;
    using Sum = V;
    static constexpr int rows = 1, lanes = V::N;
    static constexpr bool first_is_total = true;

    static int64_t block(const GemmArgs& g) { return k_block<Fp32>(g.k); }
    template <class A>
    static float left(const A* from, int64_t, bool) {
        return to_float(*from);
    }
    static V set(float x) { return V::set(x); }
    static V row(const T* b, int64_t, bool, int n) { return load_part(b, n); }
    static V add(V a, V b, V sum) { return fma(a, b, sum); }
    static V start() { return V::zero(); }
    static V load(const float* sums) { return V::load(sums); }
    static void store(V sum, float* sums) { sum.store(sums); }
    static void add_block(int64_t m, int64_t cols, const float* more, float* total) { add_sums(m, cols, more, total); }
};

#if defined(JPLLM_BF16_DOT)
struct StreamPairs : StreamFloats<bf16> {
    static constexpr int rows = 2;

    static int64_t block(const GemmArgs& g) { return k_block<Bf16>(g.k); }
    static float left(const bf16* from, int64_t stride, bool whole) {
        const uint32_t bits = from->bits | (whole ? static_cast<uint32_t>(from[stride].bits) << 16 : 0);
        float pair;
        memcpy(&pair, &bits, sizeof pair);
        return pair;
    }
    static V row(const bf16* b, int64_t b_rs, bool whole, int n) {
        return load_pairs(b, whole ? b + b_rs : nullptr, n);
    }
    static V add(V a, V b, V sum) { return dot(a, b, sum); }
};
#endif

// A chunk starts from -0: the first sum is then the product, of either sign.
#if defined(__ARM_FEATURE_SVE)
struct StreamHalves {
    using Left = fp16;
    using Right = fp16;
    using Kept = fp16;
    using Sum = H;
    static constexpr int rows = 1, lanes = H::N;
    static constexpr bool first_is_total = false;

    static int64_t block(const GemmArgs& g) { return g.chunk; }
    static fp16 left(const fp16* from, int64_t, bool) { return *from; }
    static H set(fp16 x) { return H::set(x); }
    static H row(const fp16* b, int64_t, bool, int n) { return n == H::N ? H::load(b) : H::load_n(b, n); }
    static H add(H a, H b, H sum) { return fma(a, b, sum); }
    static H start() { return H::set({0x8000}); }
    static H load(const fp16* sums) { return H::load(sums); }
    static void store(H sum, fp16* sums) { sum.store(sums); }
    static void add_block(int64_t m, int64_t cols, const fp16* more, float* total) {
        for (int64_t i = 0; i < m * kStreamCols; i += kStreamCols) {
            for (int64_t j = i; j < i + cols; j += H::N) {
                V first, second;
                H::load(more + j).widen(&first, &second);
                (V::load(total + j) + first).store(total + j);
                (V::load(total + j + V::N) + second).store(total + j + V::N);
            }
        }
    }
};
#else
struct StreamHalves : StreamFloats<fp16> {
    static constexpr bool first_is_total = false;

    static int64_t block(const GemmArgs& g) { return g.chunk; }
    static float left(const fp16* from, int64_t, bool) {
        const float x = to_float(*from);
        return __builtin_fabsf(x) < 0x1p-14f ? __builtin_copysignf(0.0f, x) : x;
    }
    static V row(const fp16* b, int64_t, bool, int n) { return flush_half(load_part(b, n)); }
    static V add(V a, V b, V sum) { return half_fma(a, b, sum); }
    static V start() { return V::set(-0.0f); }
};
#endif

// Calls f(feed) for the one of a product.
template <class F>
inline void with_feed(const GemmArgs& g, F f) {
    if (g.math == kFp16Chunk) return f(StreamHalves{});
#if defined(JPLLM_BF16_DOT)
    if (by_pairs(g)) return f(StreamPairs{});
#endif
    switch (g.b.type) {
        case kBf16:
            return f(StreamFloats<bf16>{});
        case kFp16:
            return f(StreamFloats<fp16>{});
        default:
            return f(StreamFloats<float>{});
    }
}

// sums[i][j] += a[p][i] * b[p][j] for STEPS steps and NV vectors of columns, of which the last has `lanes`.
template <class Feed, int MR, int STEPS, int NV>
inline __attribute__((always_inline)) void stream_columns(const typename Feed::Left* a, const typename Feed::Right* b,
                                                          int64_t b_rs, bool whole, typename Feed::Kept* sums,
                                                          bool first, int lanes) {
    typename Feed::Sum acc[MR][NV];
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int v = 0; v < NV; ++v)
            acc[i][v] = first ? Feed::start() : Feed::load(sums + i * kStreamCols + v * Feed::lanes);
    }
    JPLLM_UNROLL for (int p = 0; p < STEPS; ++p) {
        typename Feed::Sum row[NV];
        JPLLM_UNROLL for (int v = 0; v < NV; ++v) {
            const int n = v == NV - 1 ? lanes : Feed::lanes;
            row[v] = Feed::row(b + p * Feed::rows * b_rs + v * Feed::lanes, b_rs, whole, n);
        }
        JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
            const typename Feed::Sum x = Feed::set(a[p * MR + i]);
            JPLLM_UNROLL for (int v = 0; v < NV; ++v)
                acc[i][v] = Feed::add(x, row[v], acc[i][v]);
        }
    }
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int v = 0; v < NV; ++v)
            Feed::store(acc[i][v], sums + i * kStreamCols + v * Feed::lanes);
    }
}

template <class Feed, int MR, int STEPS>
__attribute__((noinline)) void stream(const typename Feed::Left* a, const typename Feed::Right* b, int64_t b_rs,
                                      bool whole, int64_t cols, typename Feed::Kept* sums, bool first) {
    constexpr int NV = 2, N = Feed::lanes;
    int64_t j = 0;
    for (; j + NV * N <= cols; j += NV * N) {
        stream_columns<Feed, MR, STEPS, NV>(a, b + j, b_rs, whole, sums + j, first, N);
    }
    for (; j < cols; j += N) {
        stream_columns<Feed, MR, STEPS, 1>(a, b + j, b_rs, whole, sums + j, first,
                                           static_cast<int>(least(N, cols - j)));
    }
}

template <class Feed, int STEPS, class... Arguments>
inline void stream_rows(int rows, Arguments... arguments) {
    switch (rows) {
        case 1:
            return stream<Feed, 1, STEPS>(arguments...);
        case 2:
            return stream<Feed, 2, STEPS>(arguments...);
        case 3:
            return stream<Feed, 3, STEPS>(arguments...);
        default:
            return stream<Feed, 4, STEPS>(arguments...);
    }
}

template <class Feed>
inline int64_t steps_of(int64_t k) {
    return (k + Feed::rows - 1) / Feed::rows;
}

// A as stream_block reads it: groups of kGroupRows rows, steps outermost.
template <class Feed, class A>
inline void copy_groups(const GemmArgs& g, const A* from, typename Feed::Left* to) {
    const int64_t steps = steps_of<Feed>(g.k);
    for (int64_t i = 0; i < g.m; ++i) {
        const int64_t group = i / kGroupRows * kGroupRows, rows = least(kGroupRows, g.m - group);
        typename Feed::Left* at = to + group * steps + (i - group);
        for (int64_t s = 0; s < steps; ++s) {
            const int64_t p = s * Feed::rows;
            at[s * rows] = Feed::left(from + i * g.a.rs + p * g.a.cs, g.a.cs, p + Feed::rows <= g.k);
        }
    }
}
template <class T>
inline void copy_left(StreamFloats<T>, const GemmArgs& g, float* to) {
    at_element(g.a, 0, 0, [&](auto* from) { copy_groups<StreamFloats<T>>(g, from, to); });
}
template <class Feed>
inline void copy_left(Feed, const GemmArgs& g, float* to) {
    copy_groups<Feed>(g, static_cast<const typename Feed::Right*>(g.a.data),
                      reinterpret_cast<typename Feed::Left*>(to));
}

// Steps [p0, p1) of K: sums[m][cols] = a b. a: as copy_groups leaves it, for `k` of K in all; b: row p0.
template <class Feed>
inline void stream_block(int64_t m, int64_t p0, int64_t p1, const typename Feed::Left* a, int64_t k,
                         const typename Feed::Right* b, int64_t b_rs, int64_t cols, typename Feed::Kept* sums) {
    constexpr int64_t many = kStreamSteps * Feed::rows;
    for (int64_t p = p0; p < p1;) {
        const int64_t taken = p + many <= p1 ? many : Feed::rows;
        for (int64_t i = 0; i < m; i += kGroupRows) {
            const int rows = static_cast<int>(least(kGroupRows, m - i));
            const typename Feed::Left* left = a + i * steps_of<Feed>(k) + p / Feed::rows * rows;
            const typename Feed::Right* right = b + (p - p0) * b_rs;
            typename Feed::Kept* to = sums + i * kStreamCols;
            if (taken == many) {
                stream_rows<Feed, kStreamSteps>(rows, left, right, b_rs, true, cols, to, p == p0);
            } else {
                stream_rows<Feed, 1>(rows, left, right, b_rs, p + Feed::rows <= p1, cols, to, p == p0);
            }
        }
        p += taken;
    }
}

// Columns [j, j + cols) of the sums; `left` as copy_left leaves it. Adds to total where the feed's first block is not
// it.
template <class Feed>
inline void stream_product(const GemmArgs& g, const float* left, int64_t j, int64_t cols, float* total) {
    alignas(64) float memory[4 * kGroupRows * kStreamCols];
    typename Feed::Kept* block = reinterpret_cast<typename Feed::Kept*>(memory);
    const typename Feed::Left* a = reinterpret_cast<const typename Feed::Left*>(left);
    const typename Feed::Right* b = static_cast<const typename Feed::Right*>(g.b.data) + j;
    const int64_t kb = Feed::block(g);
    for (int64_t p = 0; p < g.k; p += kb) {
        const bool is_total = Feed::first_is_total && p == 0;
        stream_block<Feed>(g.m, p, least(p + kb, g.k), a, g.k, b + p * g.b.rs, g.b.rs, cols,
                           is_total ? reinterpret_cast<typename Feed::Kept*>(total) : block);
        if (!is_total) Feed::add_block(g.m, cols, block, total);
    }
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
