// Few rows (generation): B is used once or twice, so it is read where it lies, in its own order, and never packed.
//
// With rows of B in line (stream), the sums are the same chains as in tile(): over a block of K from zero, then added
// to the blocks before. With columns in line (dots), K lies along the lanes: another order, so other last bits. With a
// dot product of BF16 pairs the blocked driver is the faster one from 5 rows on.
#pragma once
#include "bf16.h"
#include "blocked.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

constexpr int kGroupRows = 4;         // rows a pass over some of B
constexpr int64_t kStreamCols = 512;  // columns of sums in L1
constexpr int kStreamSteps = 8;       // rows of B that are read side by side

inline bool few_rows_pay(const GemmArgs& g) {
    if (there(g.up)) return false;
    return (g.b.cs == 1 && g.m <= (by_pairs(g) ? 1 : 4) * kGroupRows) || (g.b.rs == 1 && g.m <= kGroupRows);
}

// sums[i][j] += a[p][i] * b[p][j] for STEPS rows of B and NV vectors of columns, of which the last has `lanes`.
template <int MR, int STEPS, int NV, class T>
inline __attribute__((always_inline)) void stream_columns(const float* a, const T* b, int64_t b_rs, float* sums,
                                                          bool first, int lanes) {
    V acc[MR][NV];
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int v = 0; v < NV; ++v)
            acc[i][v] = first ? V::zero() : V::load(sums + i * kStreamCols + v * V::N);
    }
    JPLLM_UNROLL for (int p = 0; p < STEPS; ++p) {
        V row[NV];
        JPLLM_UNROLL for (int v = 0; v < NV; ++v)
            row[v] = load_part(b + p * b_rs + v * V::N, v == NV - 1 ? lanes : V::N);
        JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
            const V x = V::set(a[p * MR + i]);
            JPLLM_UNROLL for (int v = 0; v < NV; ++v)
                acc[i][v] = fma(x, row[v], acc[i][v]);
        }
    }
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int v = 0; v < NV; ++v)
            acc[i][v].store(sums + i * kStreamCols + v * V::N);
    }
}

template <int MR, int STEPS, class T>
__attribute__((noinline)) void stream(const float* a, const T* b, int64_t b_rs, int64_t cols, float* sums, bool first) {
    constexpr int NV = 2;
    int64_t j = 0;
    for (; j + NV * V::N <= cols; j += NV * V::N) {
        stream_columns<MR, STEPS, NV>(a, b + j, b_rs, sums + j, first, V::N);
    }
    for (; j < cols; j += V::N) {
        stream_columns<MR, STEPS, 1>(a, b + j, b_rs, sums + j, first, static_cast<int>(least(V::N, cols - j)));
    }
}

template <int STEPS, class T>
inline void stream_rows(int rows, const float* a, const T* b, int64_t b_rs, int64_t cols, float* sums, bool first) {
    switch (rows) {
        case 1:
            return stream<1, STEPS>(a, b, b_rs, cols, sums, first);
        case 2:
            return stream<2, STEPS>(a, b, b_rs, cols, sums, first);
        case 3:
            return stream<3, STEPS>(a, b, b_rs, cols, sums, first);
        default:
            return stream<4, STEPS>(a, b, b_rs, cols, sums, first);
    }
}

// Steps [p0, p1) of K: sums[m][cols] = a b. a: groups of rows, each [K of the product][rows of the group]; b: row p0.
template <class T>
inline void stream_block(int64_t m, int64_t p0, int64_t p1, const float* a, int64_t a_k, const T* b, int64_t b_rs,
                         int64_t cols, float* sums) {
    for (int64_t p = p0; p < p1;) {
        const int steps = p + kStreamSteps <= p1 ? kStreamSteps : 1;
        for (int64_t i = 0; i < m; i += kGroupRows) {
            const int rows = static_cast<int>(least(kGroupRows, m - i));
            const auto multiply = steps == 1 ? stream_rows<1, T> : stream_rows<kStreamSteps, T>;
            multiply(rows, a + i * a_k + p * rows, b + (p - p0) * b_rs, b_rs, cols, sums + i * kStreamCols, p == p0);
        }
        p += steps;
    }
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

// A in FP32, as the kernels read it: rows for dots, else groups of kGroupRows rows, k outermost.
inline void copy_rows(const GemmArgs& g, bool for_dots, float* to) {
    at_element(g.a, 0, 0, [&](auto* from) {
        for (int64_t i = 0; i < g.m; ++i) {
            const int64_t group = i / kGroupRows * kGroupRows, rows = least(kGroupRows, g.m - group);
            float* at = for_dots ? to + i * g.k : to + group * g.k + (i - group);
            const int64_t stride = for_dots ? 1 : rows;
            for (int64_t p = 0; p < g.k; ++p) at[p * stride] = to_float(from[i * g.a.rs + p * g.a.cs]);
        }
    });
}

inline void add_sums(int64_t m, int64_t cols, const float* more, float* sums) {
    for (int64_t i = 0; i < m * kStreamCols; i += kStreamCols) {
        for (int64_t j = i; j < i + cols; j += V::N) (V::load(sums + j) + V::load(more + j)).store(sums + j);
    }
}

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
        copy_rows(g, true, memory);
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

inline void few_rows_team(const Team& team, const GemmArgs& g, float* memory) {
    const bool for_dots = g.b.cs != 1, pairs = by_pairs(g);
    Rows a{memory, g.k};
    if (for_dots) {
        a = rows_in_line(team, g, pairs, memory);
    } else {
        if (team.id == 0) copy_rows(g, false, memory);
        team.barrier();
    }
    const int64_t kb = k_block<Fp32>(g.k);
    alignas(64) float total[4 * kGroupRows * kStreamCols], block[4 * kGroupRows * kStreamCols];
    if (g.k == 0) memset(total, 0, sizeof total);
    int64_t n0, n1;
    team.split(g.n, 4 * V::N, &n0, &n1);
    for (int64_t j = n0; j < n1; j += kStreamCols) {
        const int64_t cols = least(kStreamCols, n1 - j);
        if (for_dots) dot_product(g, a, pairs, j, cols, total);
        for (int64_t p = 0; !for_dots && p < g.k; p += kb) {
            at_element(g.b, p, j, [&](auto* from) {
                stream_block(g.m, p, least(p + kb, g.k), memory, g.k, from, g.b.rs, cols, p == 0 ? total : block);
            });
            if (p > 0) add_sums(g.m, cols, block, total);
        }
        for (int64_t i = 0; i < g.m; i += kTileRows) {
            for (int64_t c = 0; c < cols; c += kTileCols) {
                finish_tile<kTileRows, kTileCols>(
                    g, g.accumulate, i, j + c, static_cast<int>(least(kTileRows, g.m - i)),
                    static_cast<int>(least(kTileCols, cols - c)), total + i * kStreamCols + c, nullptr, kStreamCols);
            }
        }
    }
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
