// The blocked driver (Goto & van de Geijn, ACM TOMS 34(3), 2008; Van Zee & van de Geijn, ACM TOMS 41(3), 2015), over an
// engine: how blocks are packed and tiles multiplied (Fp32 in pack.h is one, Bf16 in bf16.h another).
//
// A (row, column) stride on every operand makes NN, NT, TN and TT the same code. Each element of C is summed over k in
// blocks that depend on K alone, in order, whatever M, N and the threads are: threads split rows and columns only.
// Where C cannot hold FP32 sums itself, they are kept in a panel until the last block of K, so each is rounded once.
#pragma once
#include "../core/team.h"
#include "finish.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// K in equal blocks of at most E::block_k, whole vectors long for the sake of packing.
template <class E>
inline int64_t k_block(int64_t k) {
    const int64_t blocks = k <= E::block_k ? 1 : (k + E::block_k - 1) / E::block_k;
    return k == 0 ? V::N : round_up((k + blocks - 1) / blocks, V::N);
}

template <class E>
inline int64_t block_of_k(const GemmArgs& g) {
    return round_up(k_block<E>(g.k), E::k_unit(g));
}

inline GemmArgs transposed(const GemmArgs& g) {
    const auto turned = [](auto x) {
        const int64_t rs = x.rs;
        x.rs = x.cs, x.cs = rs;
        return x;
    };
    GemmArgs t = g;
    t.m = g.n, t.n = g.m, t.a = turned(g.b), t.b = turned(g.a), t.c = turned(g.c);
    for (Operand& more : t.added) more = turned(more);
    t.packed = nullptr;
    return t;
}

// Up to kNarrow columns of C use an element of A too seldom to pay for packing it, up to kFewRows rows one of B.
constexpr int64_t kNarrow = 256, kFewRows = 2 * kTileRows, kSmall = 128;

// Rows of A (or columns of B) with k in line, in FP32: the micro-kernel can read them where they lie.
inline bool along_k(const Operand& x, int64_t k_stride) { return x.type == kFp32 && k_stride == 1; }

// Panels of a B that is packed for many products (prepack.h): a width that suits sums in a panel as well.
constexpr int64_t kPackedCols = Tuning::panel_n / 2;

// How a product is carried out.
struct Plan {
    GemmArgs g;
    const float* packed_b;  // all of B, packed before
    bool a_in_place, b_in_place;
    bool lazy_b;          // each thread packs a sliver of B as it goes
    bool direct, finish;  // the sums are C's elements; there is something to do after the last
    int64_t kb, mc, nc;   // blocks
    int sides;            // 2 with a gate, else 1

    int64_t floats_a, floats_b, floats_sums;
    int64_t floats() const { return floats_a + floats_b + floats_sums; }
};

template <class E>
inline Plan plan_product(const GemmArgs& args) {
    Plan p{};
    p.g = args;
    // What is added to C in another order has other last bits; so such products stay as they are without a packed B.
    if (args.packed != nullptr && !there(args.up) && !args.accumulate) {
        p.packed_b = reinterpret_cast<const float*>(static_cast<const char*>(args.packed) + sizeof(PackedHeader));
    } else if (E::in_place && !there(args.up)) {
        const bool a_narrow = args.n <= kNarrow && along_k(args.a, args.a.cs);
        const bool b_narrow = args.m <= kNarrow && along_k(args.b, args.b.rs) && args.k >= kNarrow;
        if (b_narrow && !(a_narrow && args.n <= args.m)) {
            p.g = transposed(args);
        } else if (args.c.cs != 1 && args.c.rs == 1 && !a_narrow) {
            p.g = transposed(args);
        }
    } else if (!there(args.up) && args.c.cs != 1 && args.c.rs == 1) {
        p.g = transposed(args);
    }
    const GemmArgs& g = p.g;
    p.a_in_place = E::in_place && g.n <= kNarrow && along_k(g.a, g.a.cs);
    p.b_in_place =
        E::in_place && p.packed_b == nullptr && !there(g.up) && along_k(g.b, g.b.cs) && g.m <= kSmall && g.n <= kSmall;
    p.lazy_b = p.packed_b == nullptr && g.m <= kFewRows;
    p.direct = g.c.type == kFp32 && g.c.cs == 1 && !there(g.up);
    p.finish = !p.direct || there(g.added[0]) || there(g.added[1]);
    p.kb = block_of_k<E>(g);
    p.sides = there(g.up) ? 2 : 1;
    const bool panel_of_sums = !p.direct && p.kb < g.k;
    p.mc = panel_of_sums ? Tuning::panel_m / 2 : Tuning::panel_m;
    p.nc = p.packed_b != nullptr ? kPackedCols : panel_of_sums ? Tuning::panel_n / 2 : Tuning::panel_n;
    const int64_t rows = least(g.m, p.mc), cols = p.sides * round_up(least(g.n, p.nc), E::lanes);
    p.floats_a = p.a_in_place ? 0 : round_up(round_up(rows, 2 * E::rows) * E::floats(p.kb), 64);
    p.floats_b = p.lazy_b || p.packed_b != nullptr ? 0 : round_up(cols * E::floats(p.kb), 64);
    p.floats_sums = panel_of_sums ? rows * cols : 0;
    return p;
}

// Packed blocks and the panel of sums.
struct Space {
    float* a;
    const float* b;
    float* sums;
    int64_t sums_rs;
};

// One block: where it lies in C and K.
struct Block {
    int64_t i, j, p, k;
    bool first, last;
};

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

// A sliver of B, and with a gate the same columns of `up` behind it.
template <class E>
inline void pack_sliver(const GemmArgs& g, int64_t p, int64_t k, int64_t j, int cols, int vectors, float* to) {
    E::pack_b(g.b, p, p + k, j, cols, vectors, to);
    if (there(g.up)) E::pack_b(g.up, p, p + k, j, cols, vectors, to + vectors * E::lanes * E::floats(k));
}

// Columns of a tile as whole vectors, which is what finish_tile takes.
template <class E>
constexpr int kFinishCols = (E::cols + V::N - 1) / V::N * V::N;

// Tiles of rows [i0, i1) x the sliver at column j of a block, by one thread.
template <class E>
inline void multiply_sliver(const Plan& plan, const Space& space, const Block& at, int64_t i0, int64_t i1, int64_t j,
                            int cols, int vectors, const float* b, int64_t b_rs) {
    const GemmArgs& g = plan.g;
    alignas(64) float own[2 * E::rows * E::cols];
    const auto tile_of = [&](int rows) {
        return plan.a_in_place ? tile_for<false>(rows, vectors) : E::tile(rows, vectors);
    };
    const TileFunction whole = tile_of(E::rows);
    const int64_t line = E::floats(at.k);
    for (int64_t i = i0; i < i1; i += E::rows) {
        const int rows = static_cast<int>(least(E::rows, i1 - i));
        const TileFunction multiply = rows == E::rows ? whole : tile_of(rows);
        const float* a = space.a + i * line;
        int64_t a_rs = 1, a_cs = E::rows;
        if (plan.a_in_place) {
            a = static_cast<const float*>(g.a.data) + (at.i + i) * g.a.rs + at.p * g.a.cs;
            a_rs = g.a.rs, a_cs = g.a.cs;
        }
        TileOut out{own, E::cols, rows, cols, false, g.chunk};
        float* up = own + E::rows * E::cols;
        if (plan.direct) {
            float* c = static_cast<float*>(g.c.data) + (at.i + i) * g.c.rs + at.j + j;
            out = {c, g.c.rs, rows, cols, !at.first || g.accumulate, g.chunk};
        } else if (space.sums != nullptr) {
            out = {space.sums + i * space.sums_rs + plan.sides * j, space.sums_rs, rows, cols, !at.first, g.chunk};
            up = out.c + cols;
        }
        multiply(E::steps(at.k), a, a_rs, a_cs, b, b_rs, out);
        if (plan.sides == 2) {
            TileOut other = out;
            other.c = up;
            multiply(E::steps(at.k), a, a_rs, a_cs, b + vectors * E::lanes * line, b_rs, other);
        }
        if (at.last && plan.finish) {
            finish_tile<E::rows, kFinishCols<E>>(g, g.accumulate && !plan.direct, at.i + i, at.j + j, rows, cols, out.c,
                                                 plan.sides == 2 ? up : nullptr, out.c_rs);
        }
    }
}

// Rows [m0, m1) x slivers [s0, s1) of a block, by one thread.
template <class E>
inline void multiply_block(const Plan& plan, const Space& space, const Block& at, int64_t m0, int64_t m1,
                           const typename E::Slivers& slivers, int64_t s0, int64_t s1) {
    const GemmArgs& g = plan.g;
    alignas(64) float sliver[E::floats(E::block_k) * E::cols * 2];
    // With A in place and few columns, all of B's panel stays in L2 and a tile's rows of A in L1.
    const int64_t step = plan.a_in_place ? E::rows : Tuning::block_m;
    for (int64_t mb = m0; mb < m1; mb += step) {
        const int64_t mb_end = least(mb + step, m1);
        for (int64_t s = s0; s < s1; ++s) {
            const int64_t j = slivers.start(s);
            const int cols = slivers.cols(s), vectors = slivers.vectors(s);
            const float* b = space.b + plan.sides * j * E::floats(at.k);
            int64_t b_rs = vectors * V::N;
            if (plan.b_in_place && cols == vectors * E::lanes) {
                b = static_cast<const float*>(g.b.data) + at.p * g.b.rs + at.j + j;
                b_rs = g.b.rs;
            } else if (plan.lazy_b) {
                pack_sliver<E>(g, at.p, at.k, at.j + j, cols, vectors, sliver);
                b = sliver;
            }
            multiply_sliver<E>(plan, space, at, mb, mb_end, j, cols, vectors, b, b_rs);
        }
    }
}

// Packs this thread's share of a block of A, and of B to `b`.
template <class E>
inline void pack_block(const Team& team, const Plan& plan, const Space& space, float* b, const Block& at, int64_t m0,
                       int64_t m1, int grid_cols, const typename E::Slivers& slivers) {
    const int64_t line = E::floats(at.k);
    int64_t from, to;
    if (!plan.a_in_place) {
        // A part of the rows that its row of the grid will read: they are in its cache then.
        Team{team.id % grid_cols, grid_cols, nullptr}.split(m1 - m0, 2 * E::rows, &from, &to);
        E::pack_a(plan.g.a, at.i + m0 + from, at.i + m0 + to, at.p, at.p + at.k, space.a + (m0 + from) * line);
    }
    if (plan.lazy_b || plan.packed_b != nullptr) return;
    team.split(slivers.count, 1, &from, &to);
    for (int64_t s = from; s < to; ++s) {
        const int64_t j = slivers.start(s);
        const int cols = slivers.cols(s), vectors = slivers.vectors(s);
        if (plan.b_in_place && cols == vectors * E::lanes) continue;
        pack_sliver<E>(plan.g, at.p, at.k, at.j + j, cols, vectors, b + plan.sides * j * line);
    }
}

// Floats that a line of K takes in blocks of kb.
template <class E>
inline int64_t packed_line(int64_t k, int64_t kb) {
    return k / kb * E::floats(kb) + (k % kb > 0 ? E::floats(k % kb) : 0);
}

template <class E>
inline int64_t packed_floats(const GemmArgs& g) {
    return round_up(g.n, E::lanes) * packed_line<E>(g.k, block_of_k<E>(g));
}

// Where the block from column jc and step pc on lies.
template <class E>
inline int64_t packed_offset(int64_t n, int64_t k, int64_t kb, int64_t jc, int64_t pc) {
    return jc * packed_line<E>(k, kb) + round_up(least(n - jc, kPackedCols), E::lanes) * (pc / kb * E::floats(kb));
}

// All of B, every thread its share.
template <class E>
inline void pack_panels(const Team& team, const GemmArgs& g, float* to) {
    const int64_t kb = block_of_k<E>(g);
    for (int64_t jc = 0; jc < g.n; jc += kPackedCols) {
        const typename E::Slivers slivers(least(g.n - jc, kPackedCols));
        int64_t first, last;
        team.split(slivers.count, 1, &first, &last);
        for (int64_t pc = 0; pc < g.k; pc += kb) {
            const int64_t k = least(g.k - pc, kb);
            float* block = to + packed_offset<E>(g.n, g.k, kb, jc, pc);
            for (int64_t s = first; s < last; ++s) {
                const int64_t j = slivers.start(s);
                E::pack_b(g.b, pc, pc + k, jc + j, slivers.cols(s), slivers.vectors(s), block + j * E::floats(k));
            }
        }
    }
}

template <class E>
inline void blocked_team(const Team& team, const Plan& plan, float* memory) {
    const GemmArgs& g = plan.g;
    float *own_b = memory + plan.floats_a, *sums = plan.floats_sums > 0 ? own_b + plan.floats_b : nullptr;
    Space space{memory, own_b, sums, plan.sides * round_up(least(g.n, plan.nc), E::lanes)};
    for (int64_t jc = 0; jc < g.n; jc += plan.nc) {
        const typename E::Slivers slivers(least(g.n - jc, plan.nc));
        for (int64_t ic = 0; ic < g.m; ic += plan.mc) {
            const int64_t mc = least(g.m - ic, plan.mc);
            const int64_t row_tiles = (mc + E::rows - 1) / E::rows;
            const int grid_rows = plan.lazy_b       ? 1
                                  : plan.a_in_place ? team.size
                                                    : team_rows(team.size, row_tiles, slivers.count);
            const int grid_cols = team.size / grid_rows;
            int64_t m0, m1, s0, s1;
            Team{team.id / grid_cols, grid_rows, nullptr}.split(mc, 2 * E::rows, &m0, &m1);
            Team{team.id % grid_cols, grid_cols, nullptr}.split(slivers.count, 1, &s0, &s1);
            for (int64_t pc = 0; pc == 0 || pc < g.k; pc += plan.kb) {  // once even where K is 0
                const Block at{ic, jc, pc, least(g.k - pc, plan.kb), pc == 0, pc + plan.kb >= g.k};
                if (plan.packed_b != nullptr) {
                    space.b = plan.packed_b + packed_offset<E>(g.n, g.k, plan.kb, jc, pc);
                }
                pack_block<E>(team, plan, space, own_b, at, m0, m1, grid_cols, slivers);
                team.barrier();
                multiply_block<E>(plan, space, at, m0, m1, slivers, s0, s1);
                team.barrier();
            }
        }
    }
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
