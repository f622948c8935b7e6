// The matrix product C (+)= A B + bias: one micro-kernel, one blocked driver; all else is packing (Goto & van de Geijn,
// ACM TOMS 34(3), 2008; Van Zee & van de Geijn, ACM TOMS 41(3), 2015).
//
// A (row, column) stride on every operand makes NN, NT, TN and TT the same code. A block of A is packed as slivers of
// tile_rows rows, a block of B as slivers of tile_cols columns, both padded with zeroes, so the micro-kernel has no
// tails; only the store does. Each element of C is summed over k in blocks that depend on K alone, in order, whatever
// M, N and the threads are: threads split rows and columns only.
//
// Letters: M, N, K as in C[M,N] = A[M,K] B[K,N].
#pragma once
#include "../core/rows.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

constexpr int kTileRows = Tuning::tile_rows;
constexpr int kTileCols = Tuning::tile_vectors * V::N;

// acc[i][j] = sum over p of a[p][i] * b[p][j], both packed.
template <int MR, int NV>
inline __attribute__((always_inline)) void multiply_tile(int64_t k, const float* a, const float* b, V (&acc)[MR][NV]) {
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            acc[i][j] = V::zero();
    }
    for (int64_t p = 0; p < k; ++p, a += kTileRows, b += NV * V::N) {
        V row[NV];
        JPLLM_UNROLL for (int j = 0; j < NV; ++j) { row[j] = V::load(b + j * V::N); }
        if (Tuning::prefetch > 0) prefetch(b + Tuning::prefetch / 4);
        JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
            const V x = V::set(a[i]);
            JPLLM_UNROLL for (int j = 0; j < NV; ++j)
                acc[i][j] = fma(x, row[j], acc[i][j]);
        }
    }
}

// Where a tile goes and what is added on the way.
struct TileOut {
    float* c;
    int64_t c_rs, c_cs;
    const float* bias;
    int64_t bias_rs, bias_cs;
    bool accumulate;
};

inline V with_bias(V x, const TileOut& out, int i, int j, int n) {
    if (out.bias == nullptr) return x;
    if (out.bias_cs == 1) return x + V::load_n(out.bias + i * out.bias_rs + j, n);
    return x + V::set(out.bias[i * out.bias_rs]);
}

// MR rows of the sliver are computed, `rows` <= MR and `cols` <= kTileCols of them are stored.
template <int MR>
__attribute__((noinline)) void tile(int64_t k, const float* a, const float* b, const TileOut& out, int rows, int cols) {
    constexpr int NV = Tuning::tile_vectors;
    V acc[MR][NV];
    multiply_tile<MR, NV>(k, a, b, acc);
    if (rows == MR && cols == kTileCols && out.c_cs == 1 && out.bias == nullptr) {
        JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
            float* c = out.c + i * out.c_rs;
            JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
                if (out.accumulate) acc[i][j] = acc[i][j] + V::load(c + j * V::N);
                acc[i][j].store(c + j * V::N);
            }
        }
        return;
    }
    float spill[MR * kTileCols];
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            acc[i][j].store(spill + i * kTileCols + j * V::N);
    }
    for (int i = 0; i < rows; ++i) {
        float* c = out.c + i * out.c_rs;
        for (int j = 0; j < cols; j += V::N) {
            const int n = cols - j < V::N ? cols - j : V::N;
            V x = with_bias(V::load(spill + i * kTileCols + j), out, i, j, n);
            if (out.c_cs == 1) {
                if (out.accumulate) x = x + V::load_n(c + j, n);
                x.store_n(c + j, n);
            } else {
                float lanes[V::N];
                x.store(lanes);
                for (int l = 0; l < n; ++l) {
                    float* to = c + (j + l) * out.c_cs;
                    *to = out.accumulate ? *to + lanes[l] : lanes[l];
                }
            }
        }
    }
}

// Packs `count` lines (rows of A or columns of B) of k elements into one sliver: to[p * WIDTH + line], zeroes beyond.
template <int WIDTH>
inline void pack_sliver(const float* from, int64_t line_stride, int64_t k_stride, int count, int64_t k, float* to) {
    if (count == WIDTH && line_stride == 1 && WIDTH % V::N == 0) {
        for (int64_t p = 0; p < k; ++p, from += k_stride, to += WIDTH) {
            JPLLM_UNROLL for (int j = 0; j < WIDTH; j += V::N)
                V::load(from + j).store(to + j);
        }
        return;
    }
    int64_t p = 0;
    if (k_stride == 1) {
        // Blocks of V::N lines by V::N elements are turned in registers.
        for (; p + V::N <= k; p += V::N, to += V::N * WIDTH) {
            for (int line = 0; line < WIDTH; line += V::N) {
                V block[V::N];
                JPLLM_UNROLL for (int l = 0; l < V::N; ++l) {
                    block[l] = line + l < count ? V::load(from + (line + l) * line_stride + p) : V::zero();
                }
                transpose(block);
                const int width = WIDTH - line < V::N ? WIDTH - line : V::N;
                JPLLM_UNROLL for (int l = 0; l < V::N; ++l) {
                    if (width == V::N) {
                        block[l].store(to + l * WIDTH + line);
                    } else {
                        block[l].store_n(to + l * WIDTH + line, width);
                    }
                }
            }
        }
    }
    for (; p < k; ++p, to += WIDTH) {
        for (int line = 0; line < count; ++line) to[line] = from[line * line_stride + p * k_stride];
        for (int line = count; line < WIDTH; ++line) to[line] = 0.0f;
    }
}

// The team's shape over a block of C: rows x columns of threads, the one with the least work for the busiest thread.
inline int team_rows(int size, int64_t row_tiles, int64_t col_tiles) {
    int best = size;
    int64_t least_work = INT64_MAX;
    for (int rows = size; rows >= 1; --rows) {
        if (size % rows != 0) continue;
        const int64_t cols = size / rows;
        const int64_t work = ((row_tiles + rows - 1) / rows) * ((col_tiles + cols - 1) / cols);
        if (work < least_work) least_work = work, best = rows;
    }
    return best;
}

// K in equal blocks of at most Tuning::block_k, whole vectors long for the sake of packing.
inline int64_t k_block(int64_t k) {
    const int64_t blocks = k <= Tuning::block_k ? 1 : (k + Tuning::block_k - 1) / Tuning::block_k;
    return round_up((k + blocks - 1) / blocks, V::N);
}

// A product's share of the work space: the packed blocks.
struct GemmSpace {
    float *a, *b;
    static int64_t a_floats(int64_t m, int64_t k) {
        return round_up(least(m, Tuning::panel_m), kTileRows) * least(k, Tuning::block_k);
    }
    static int64_t b_floats(int64_t n, int64_t k) {
        // The prefetch may name lines past the end; it reads nothing.
        return round_up(least(n, Tuning::panel_n), kTileCols) * least(k, Tuning::block_k);
    }
    // Enough for products up to these sizes, for C or its transpose.
    static int64_t floats(int64_t m, int64_t n, int64_t k) {
        const int64_t wide = m > n ? m : n;
        return round_up(a_floats(wide, k), 64) + round_up(b_floats(wide, k), 64);
    }
    static GemmSpace at(float* memory, int64_t m, int64_t n, int64_t k) {
        return {memory, memory + round_up(a_floats(m > n ? m : n, k), 64)};
    }
};

// Few rows of A use a sliver of B too seldom to pay for a panel written to memory: a thread packs one sliver into its
// cache and uses it at once.
constexpr int kFewRows = 2 * kTileRows;

// Rows [m0, m1) x columns [n0, n1) of tiles, by one thread, from the packed blocks; `sliver`, where not null, is this
// thread's place to pack B into as it goes.
inline void multiply_block(const GemmArgs& g, const GemmSpace& space, int64_t ic, int64_t jc, int64_t pc, int64_t k,
                           int64_t m0, int64_t m1, int64_t n0, int64_t n1, float* sliver) {
    const bool first = pc == 0;
    for (int64_t mb = m0; mb < m1; mb += Tuning::block_m) {
        const int64_t mb_end = least(mb + Tuning::block_m, m1);
        for (int64_t j = n0; j < n1; j += kTileCols) {
            const int cols = static_cast<int>(least(kTileCols, n1 - j));
            const float* b = space.b + j * k;
            if (sliver != nullptr) {
                b = sliver;
                pack_sliver<kTileCols>(g.b + pc * g.b_rs + (jc + j) * g.b_cs, g.b_cs, g.b_rs, cols, k, sliver);
            }
            for (int64_t i = mb; i < mb_end; i += kTileRows) {
                const float* a = space.a + i * k;
                const int rows = static_cast<int>(least(kTileRows, mb_end - i));
                TileOut out{g.c + (ic + i) * g.c_rs + (jc + j) * g.c_cs,
                            g.c_rs,
                            g.c_cs,
                            nullptr,
                            g.bias_rs,
                            g.bias_cs,
                            g.accumulate || !first};
                if (first && g.bias != nullptr) out.bias = g.bias + (ic + i) * g.bias_rs + (jc + j) * g.bias_cs;
                if (rows > kTileRows / 2) {
                    tile<kTileRows>(k, a, b, out, rows, cols);
                } else if (rows > 1) {
                    tile<kTileRows / 2>(k, a, b, out, rows, cols);
                } else {
                    tile<1>(k, a, b, out, rows, cols);
                }
            }
        }
    }
}

// Called by every thread of a team with the same arguments; ends with a barrier.
inline void gemm_team(const Team& team, GemmArgs g, const GemmSpace& space) {
    if (g.m == 0 || g.n == 0) return;
    if (g.c_cs != 1 && g.c_rs == 1) {
        // The same product transposed has rows of C along the vectors.
        g = GemmArgs{g.n,    g.m, g.k,    g.b,    g.b_cs, g.b_rs,    g.a,       g.a_cs,
                     g.a_rs, g.c, g.c_cs, g.c_rs, g.bias, g.bias_cs, g.bias_rs, g.accumulate};
    }
    const bool few = g.m <= kFewRows;  // then threads split columns, and one with columns has room for its sliver
    for (int64_t jc = 0; jc < g.n; jc += Tuning::panel_n) {
        const int64_t nc = least(g.n - jc, Tuning::panel_n);
        const int64_t block = k_block(g.k);
        int64_t pc = 0;
        do {  // once even where K is 0, for the bias and the zeroes
            const int64_t kc = least(g.k - pc, block);
            for (int64_t ic = 0; ic < g.m; ic += Tuning::panel_m) {
                const int64_t mc = least(g.m - ic, Tuning::panel_m);
                const int64_t row_tiles = (mc + kTileRows - 1) / kTileRows,
                              col_tiles = (nc + kTileCols - 1) / kTileCols;
                const int grid_rows = few ? 1 : team_rows(team.size, row_tiles, col_tiles),
                          grid_cols = team.size / grid_rows;
                int64_t m0, m1, n0, n1, p0, p1;
                Team{team.id / grid_cols, grid_rows, nullptr}.split(mc, kTileRows, &m0, &m1);
                Team{team.id % grid_cols, grid_cols, nullptr}.split(nc, kTileCols, &n0, &n1);
                // A thread packs a part of the rows that its row of the grid will read: they are in its cache then.
                Team{team.id % grid_cols, grid_cols, nullptr}.split(m1 - m0, kTileRows, &p0, &p1);
                for (int64_t i = m0 + p0; i < m0 + p1; i += kTileRows) {
                    pack_sliver<kTileRows>(g.a + (ic + i) * g.a_rs + pc * g.a_cs, g.a_rs, g.a_cs,
                                           static_cast<int>(least(kTileRows, mc - i)), kc, space.a + i * kc);
                }
                if (ic == 0 && !few) {
                    team.split(nc, kTileCols, &p0, &p1);
                    for (int64_t j = p0; j < p1; j += kTileCols) {
                        pack_sliver<kTileCols>(g.b + pc * g.b_rs + (jc + j) * g.b_cs, g.b_cs, g.b_rs,
                                               static_cast<int>(least(kTileCols, nc - j)), kc, space.b + j * kc);
                    }
                }
                team.barrier();
                multiply_block(g, space, ic, jc, pc, kc, m0, m1, n0, n1,
                               few ? space.b + team.id * kTileCols * kc : nullptr);
                team.barrier();
            }
            pc += block;
        } while (pc < g.k);
    }
}

struct GemmCall {
    GemmArgs args;
    GemmSpace space;
};

inline int gemm(const GemmArgs& args, int threads) {
    if (args.m == 0 || args.n == 0) return 0;
    const double work = 2.0 * static_cast<double>(args.m) * static_cast<double>(args.n) * static_cast<double>(args.k);
    float* memory = static_cast<float*>(
        workspace(static_cast<size_t>(GemmSpace::floats(args.m, args.n, args.k) + 1) * sizeof(float)));
    if (memory == nullptr) return 1;
    GemmCall call{args, GemmSpace::at(memory, args.m, args.n, args.k)};
    run_team(
        worthwhile(threads, work / 50.0),
        [](const Team& team, void* context) {
            const GemmCall& c = *static_cast<GemmCall*>(context);
            gemm_team(team, c.args, c.space);
        },
        &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
