// Few rows (generation): B is used once or twice, so it is read where it lies, in its own order, and never packed.
//
// With rows of B in line (stream.h), the sums are the same chains as in tile(): over a block of K from zero, then added
// to the blocks before; over a chunk where they are FP16 (fp16.h). With columns in line (dots), K lies along the lanes:
// another order, so other last bits, and none for FP16's chunks. With a dot product of BF16 pairs, or in FP16, the
// blocked driver is the faster one from 5 rows on.
#pragma once
#include "blocked.h"
#include "stream.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

inline bool few_rows_pay(const GemmArgs& g) {
    if (there(g.up)) return false;
    if (g.math == kFp16Chunk) return g.b.cs == 1 && g.m <= kGroupRows;
    return (g.b.cs == 1 && g.m <= (by_pairs(g) ? 1 : 4) * kGroupRows) || (g.b.rs == 1 && g.m <= kGroupRows);
}

// What lies in a vector along K: FP32 from any storage, or pairs of BF16.
struct AlongFloats {
    static constexpr int elements = V::N;
    template <class T>
    static V load(const T* p, int n) {
        return load_part(p, n);
    }
    static V add(V a, V b, V sum) { return fma(a, b, sum); }
};
#if defined(JPLLM_BF16_DOT)
struct AlongPairs {
    static constexpr int elements = 2 * V::N;
    static V load(const bf16* p, int n) {
        return n == elements ? V::load(reinterpret_cast<const float*>(p)) : load_line(p, n);
    }
    static V add(V a, V b, V sum) { return dot(a, b, sum); }
};
#endif

// sums[i][r] = row i of A times row r of B^T, whole rows, k along the lanes.
template <class Along, int MR, int ROWS, class A, class B>
__attribute__((noinline)) void dots(int64_t k, const A* a, int64_t a_rs, const B* b, int64_t b_cs, float* sums) {
    V acc[MR][ROWS];
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int r = 0; r < ROWS; ++r)
            acc[i][r] = V::zero();
    }
    const auto step = [&](int64_t p, int n) __attribute__((always_inline)) {
        V x[MR];
        JPLLM_UNROLL for (int i = 0; i < MR; ++i)
            x[i] = Along::load(a + i * a_rs + p, n);
        JPLLM_UNROLL for (int r = 0; r < ROWS; ++r) {
            const V y = Along::load(b + r * b_cs + p, n);
            JPLLM_UNROLL for (int i = 0; i < MR; ++i)
                acc[i][r] = Along::add(x[i], y, acc[i][r]);
        }
    };
    int64_t p = 0;
    for (; p + Along::elements <= k; p += Along::elements) step(p, Along::elements);
    if (p < k) step(p, static_cast<int>(k - p));
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int r = 0; r < ROWS; ++r)
            sums[i * kStreamCols + r] = sum(acc[i][r]);
    }
}

template <class Along, int MR, class A, class B>
inline void dot_columns(int64_t k, const A* a, int64_t a_rs, const B* b, int64_t b_cs, int64_t cols, float* sums) {
    constexpr int ROWS = MR == 1 ? 8 : MR == 2 ? 4 : MR == 3 ? 3 : 2;
    int64_t j = 0;
    for (; j + ROWS <= cols; j += ROWS) dots<Along, MR, ROWS>(k, a, a_rs, b + j * b_cs, b_cs, sums + j);
    for (; j < cols; ++j) dots<Along, MR, 1>(k, a, a_rs, b + j * b_cs, b_cs, sums + j);
}

template <class Along, class A, class B>
inline void dot_rows(int64_t m, int64_t k, const A* a, int64_t a_rs, const B* b, int64_t b_cs, int64_t cols,
                     float* sums) {
    switch (m) {
        case 1:
            return dot_columns<Along, 1>(k, a, a_rs, b, b_cs, cols, sums);
        case 2:
            return dot_columns<Along, 2>(k, a, a_rs, b, b_cs, cols, sums);
        case 3:
            return dot_columns<Along, 3>(k, a, a_rs, b, b_cs, cols, sums);
        default:
            return dot_columns<Along, 4>(k, a, a_rs, b, b_cs, cols, sums);
    }
}

inline int64_t few_rows_floats(const GemmArgs& g) { return round_up(g.m * g.k, 64); }

// Rows of A with k in line, and how far apart: where they lie, or copied (every thread must call this).
struct Rows {
    const void* data;
    int64_t rs;
};

inline Rows rows_in_line(const Team& team, const GemmArgs& g, bool pairs, float* memory) {
    if (g.a.cs == 1 && (pairs || g.a.type == kFp32)) return {g.a.data, g.a.rs};
    if (team.id == 0 && pairs) {
        const bf16* from = static_cast<const bf16*>(g.a.data);
        bf16* to = reinterpret_cast<bf16*>(memory);
        for (int64_t i = 0; i < g.m; ++i) {
            for (int64_t p = 0; p < g.k; ++p) to[i * g.k + p] = from[i * g.a.rs + p * g.a.cs];
        }
    } else if (team.id == 0) {
        at_element(g.a, 0, 0, [&](auto* from) {
            for (int64_t i = 0; i < g.m; ++i) {
                for (int64_t p = 0; p < g.k; ++p) memory[i * g.k + p] = to_float(from[i * g.a.rs + p * g.a.cs]);
            }
        });
    }
    team.barrier();
    return {memory, g.k};
}

// Columns [j, j + cols) of the sums, columns of B in line.
inline void dot_product(const GemmArgs& g, const Rows& a, bool pairs, int64_t j, int64_t cols, float* sums) {
#if defined(JPLLM_BF16_DOT)
    if (pairs) {
        return dot_rows<AlongPairs>(g.m, g.k, static_cast<const bf16*>(a.data), a.rs, Bf16::at(g.b, 0, j), g.b.cs, cols,
                                    sums);
    }
#endif
    (void)pairs;
    at_element(g.b, 0, j, [&](auto* from) {
        dot_rows<AlongFloats>(g.m, g.k, static_cast<const float*>(a.data), a.rs, from, g.b.cs, cols, sums);
    });
}

// FP16's chunks are added to C itself where it keeps FP32 sums, as the blocked driver has it.
inline bool starts_from_c(const GemmArgs& g) {
    return g.math == kFp16Chunk && g.accumulate && g.c.type == kFp32 && (g.c.cs == 1 || g.c.rs == 1);
}

// Columns [j, j + cols) of the sums before the first product, where any are needed.
inline void start_sums(const GemmArgs& g, int64_t j, int64_t cols, float* total) {
    if (g.math != kFp16Chunk && g.k > 0) return;
    const bool from_c = starts_from_c(g);
    for (int64_t i = 0; i < g.m; ++i) {
        for_vectors(round_up(cols, V::N), [&](int64_t at, int) {
            const int lanes = static_cast<int>(least(V::N, cols - at));
            const V x = from_c ? load_operand(as_operand(g.c), i, j + at, lanes) : V::zero();
            x.store(total + i * kStreamCols + at);
        });
    }
}

inline void few_rows_team(const Team& team, const GemmArgs& g, float* memory) {
    const bool for_dots = g.b.cs != 1, pairs = by_pairs(g);
    Rows a{memory, g.k};
    if (for_dots) {
        a = rows_in_line(team, g, pairs, memory);
    } else {
        if (team.id == 0) with_feed(g, [&](auto feed) { copy_left(feed, g, memory); });
        team.barrier();
    }
    alignas(64) float total[4 * kGroupRows * kStreamCols];
    int64_t n0, n1;
    team.split(g.n, 4 * V::N, &n0, &n1);
    for (int64_t j = n0; j < n1; j += kStreamCols) {
        const int64_t cols = least(kStreamCols, n1 - j);
        start_sums(g, j, cols, total);
        if (for_dots) {
            dot_product(g, a, pairs, j, cols, total);
        } else {
            with_feed(g, [&](auto feed) { stream_product<decltype(feed)>(g, memory, j, cols, total); });
        }
        for (int64_t i = 0; i < g.m; i += kTileRows) {
            for (int64_t c = 0; c < cols; c += kTileCols) {
                finish_tile<kTileRows, kTileCols>(
                    g, g.accumulate && !starts_from_c(g), i, j + c, static_cast<int>(least(kTileRows, g.m - i)),
                    static_cast<int>(least(kTileCols, cols - c)), total + i * kStreamCols + c, nullptr, kStreamCols);
            }
        }
    }
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
