// Attention backward: the scores once more from Q, K and the log-sum-exp, then four products a block of keys and step
// of queries (Dao, 2023, arXiv:2307.08691, algorithm 2):
//   P^T = exp2(K Q^T - lse), dS^T = P^T (V dO^T - delta), delta = sum of dO O a query,
//   dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T.
// A task is a block of keys of a key/value head and holds its dK and dV. dQ is one buffer a head: tasks add to a step
// of queries in the order of the keys, so the sums are the same on any number of threads. A task waits only for tasks
// before it in the list, which other threads have begun.
#pragma once
#include <sched.h>

#include "blocks.h"
#include "forward.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// What backward knows of a block of queries.
struct alignas(64) BackwardBlock {
    Block block;
    float lse[kLanes], delta[kLanes];  // lse in powers of two, infinity where a query sees nothing
};

// A step of queries: the keys that any of its blocks sees, and how many blocks of keys have added to its dQ.
struct Step {
    int64_t first, last;
    int64_t added;
};

// All queries of one key/value head, copied as the engine packs them.
struct HeadCopy {
    BackwardBlock* blocks;
    Step* steps;
    float *qt, *gt;  // a block: [D / pack][kLanes]; Q with its factor
    float* dqt;      // a block: [D][kLanes]
    float *q, *g;    // a block: [kLanes / pack][row_pitch]; Q with the rows' factor
};

struct BackwardSizes {
    int64_t blocks, steps, packed, turned, rows;  // from the third on: words of a block of qt, dqt, q

    template <class M>
    BackwardSizes(const M&, const AttentionArgs& a)
        : blocks(query_blocks(a)),
          steps((blocks + AttentionTuning::sweep - 1) / AttentionTuning::sweep),
          packed(M::pitch(a.dim) * kLanes),
          turned(whole(a.dim, 16) * kLanes),
          rows(row_pitch(a.dim) * kLanes / M::pack) {}
    size_t head_bytes() const {
        return (static_cast<size_t>(blocks) *
                    (sizeof(BackwardBlock) + static_cast<size_t>(2 * packed + turned + 2 * rows) * sizeof(float)) +
                static_cast<size_t>(steps) * sizeof(Step) + 4095) /
               4096 * 4096;
    }
    HeadCopy head(char* memory) const {
        HeadCopy h;
        h.blocks = reinterpret_cast<BackwardBlock*>(memory);
        h.qt = reinterpret_cast<float*>(h.blocks + blocks);
        h.gt = h.qt + blocks * packed;
        h.dqt = h.gt + blocks * packed;
        h.q = h.dqt + blocks * turned;
        h.g = h.q + blocks * rows;
        h.steps = reinterpret_cast<Step*>(h.g + blocks * rows);
        return h;
    }
};

// A thread's scratch for one block of keys.
struct KeyScratch {
    float *k, *v;    // rows of M::pitch
    float* panels;   // of K
    float *dk, *dv;  // rows of row_pitch
    BackwardScratch products;

    template <class M>
    KeyScratch(const M&, char* memory, int64_t dim) {
        const int64_t dense = kKeys * M::pitch(dim), spaced = kKeys * row_pitch(dim), tile = kKeys * kSweep / M::pack;
        k = reinterpret_cast<float*>(memory), v = k + dense, panels = v + dense;
        dk = panels + dense, dv = dk + spaced;
        products.p = dv + spaced, products.ds = products.p + tile;
        products.turned = M::pack == 1 ? products.ds : products.ds + tile;
        products.exact = products.turned + tile;
    }
    template <class M>
    static size_t bytes(const M&, int64_t dim) {
        const int64_t floats =
            kKeys * (3 * M::pitch(dim) + 2 * row_pitch(dim)) + 3 * kKeys * kSweep / M::pack + kRows * kLanes;
        return (static_cast<size_t>(floats) * sizeof(float) + 4095) / 4096 * 4096;
    }
};

// Rows of the block's queries times a factor, zeroes in lanes that hold none.
template <class T>
inline void gather_rows(InFloats, const HeadsView& x, int64_t batch, int64_t first_head, const Block& block,
                        int64_t dim, float factor, float* to) {
    const int64_t pitch = row_pitch(dim);
    for (int lane = 0; lane < block.count; ++lane, to += pitch) {
        copy_row(row_of<T>(x, batch, block.query[lane], first_head + block.head[lane]), dim, factor, to);
    }
    memset(to, 0, static_cast<size_t>((kLanes - block.count) * pitch) * sizeof(float));
}

template <class T, class M>
inline void prepare_block(const M& m, const AttentionArgs& a, const BackwardSizes& sizes, int64_t batch,
                          int64_t kv_head, int64_t index, const HeadCopy& head) {
    BackwardBlock& b = head.blocks[index];
    const int64_t first_head = kv_head * (a.heads / a.kv_heads);
    find_block(a, batch, index, &b.block);
    turn_in<T>(m, a.q, batch, first_head, b.block, a.dim, m.query_factor, head.qt + index * sizes.packed);
    turn_in<T>(m, a.dout, batch, first_head, b.block, a.dim, 1.0f, head.gt + index * sizes.packed);
    gather_rows<T>(m, a.q, batch, first_head, b.block, a.dim, m.row_factor, head.q + index * sizes.rows);
    gather_rows<T>(m, a.dout, batch, first_head, b.block, a.dim, 1.0f, head.g + index * sizes.rows);
    // The products of V::N rows are turned before they are summed: no sum across lanes a row.
    for (int start = 0; start < kLanes; start += V::N) {
        V products[V::N];
        for (int i = 0; i < V::N; ++i) {
            const int lane = start + i;
            products[i] = V::zero(), b.lse[lane] = __builtin_inff();
            if (lane >= b.block.count) continue;
            const int64_t h = first_head + b.block.head[lane], query = b.block.query[lane];
            const T* out = row_of<T>(a.out, batch, query, h);
            const T* g = row_of<T>(a.dout, batch, query, h);
            V total = V::zero();
            int64_t d = 0;
            for (; d + V::N <= a.dim; d += V::N) total = fma(V::load(out + d), V::load(g + d), total);
            const int n = static_cast<int>(a.dim - d);
            if (n > 0) total = fma(V::load_n(out + d, n), V::load_n(g + d, n), total);
            products[i] = total;
            const float lse = a.lse[(batch * a.heads + h) * a.queries + query];
            if (lse != -__builtin_inff()) b.lse[lane] = static_cast<float>(static_cast<double>(lse) * kLog2E);
        }
        transpose(products);
        V delta = products[0];
        JPLLM_UNROLL for (int i = 1; i < V::N; ++i)
            delta = delta + products[i];
        delta.store(b.delta + start);
    }
}

template <class T, class M>
inline void prepare_step(const M& m, const AttentionArgs& a, const BackwardSizes& sizes, int64_t batch, int64_t kv_head,
                         int64_t index, const HeadCopy& head) {
    Step step{a.keys, -1, 0};
    const int64_t begin = index * AttentionTuning::sweep, end = at_most(begin + AttentionTuning::sweep, sizes.blocks);
    for (int64_t i = begin; i < end; ++i) {
        prepare_block<T>(m, a, sizes, batch, kv_head, i, head);
        step.first = at_most(step.first, head.blocks[i].block.first);
        step.last = at_least(step.last, head.blocks[i].block.last);
    }
    memset(head.dqt + begin * sizes.turned, 0, static_cast<size_t>((end - begin) * sizes.turned) * sizeof(float));
    if (step.last < step.first) {
        const float none[kLanes] = {};
        for (int64_t i = begin; i < end; ++i) {
            turn_out<T>(a.dq, batch, kv_head * (a.heads / a.kv_heads), head.blocks[i].block, a.dim, none,
                        head.dqt + i * sizes.turned);
        }
    }
    head.steps[index] = step;
}

template <class M, bool kHide>
JPLLM_INLINE void probabilities(int vectors, const float* k, int64_t pitch, const float* qt, int64_t dim,
                                const typename M::Tile& tile, const Sight* sight) {
    if (vectors == 1) {
        probability_tile<M, 1, kHide>(k, pitch, qt, dim, tile, sight);
    } else if (vectors == 2) {
        probability_tile<M, 2, kHide>(k, pitch, qt, dim, tile, sight);
    } else {
        probability_tile<M, kVectors, kHide>(k, pitch, qt, dim, tile, sight);
    }
}

template <class M>
JPLLM_INLINE void slopes(int vectors, const float* v, int64_t pitch, const float* gt, int64_t dim,
                         const typename M::Tile& tile) {
    if (vectors == 1) {
        slope_tile<M, 1>(v, pitch, gt, dim, tile);
    } else if (vectors == 2) {
        slope_tile<M, 2>(v, pitch, gt, dim, tile);
    } else {
        slope_tile<M, kVectors>(v, pitch, gt, dim, tile);
    }
}

// The lanes of a step that a tile of kRows keys has to do with; all others are zeroes in p and ds.
struct Reach {
    int begin, end;
};

// out += p^T x over the keys' tiles: `vectors` of channels at a time, x's rows along the lanes.
template <class M, int NV>
inline void add_keys(const float* p, const Reach* reach, int64_t keys, const float* x, int64_t pitch, float* out) {
    for (int64_t row = 0; row < keys; row += kWideRows) {
        int begin = kSweep, end = 0;
        for (int64_t t = row / kRows; t * kRows < at_most(row + kWideRows, keys); ++t) {
            if (reach[t].begin < reach[t].end) {
                begin = reach[t].begin < begin ? reach[t].begin : begin, end = reach[t].end > end ? reach[t].end : end;
            }
        }
        if (begin < end)
            key_tile<M, NV>(p + (row * kSweep + begin) / M::pack, x + begin / M::pack * pitch, pitch,
                            (end - begin) / M::pack, out + row * pitch);
    }
}

template <class M>
inline void add_all_keys(const float* p, const Reach* reach, int64_t keys, const float* x, int64_t dim, float* out) {
    const int64_t pitch = row_pitch(dim), vectors = (dim + V::N - 1) / V::N;
    const int64_t slabs = (vectors + kWideVectors - 1) / kWideVectors;
    for (int64_t slab = 0; slab < slabs; ++slab) {
        const int64_t v = vectors * slab / slabs, width = vectors * (slab + 1) / slabs - v;
        const float* from = x + v * V::N;
        float* to = out + v * V::N;
        if (width == 1) {
            add_keys<M, 1>(p, reach, keys, from, pitch, to);
        } else if (width == 2) {
            add_keys<M, 2>(p, reach, keys, from, pitch, to);
        } else if (width == 3) {
            add_keys<M, (kWideVectors < 3 ? 1 : 3)>(p, reach, keys, from, pitch, to);
        } else {
            add_keys<M, kWideVectors>(p, reach, keys, from, pitch, to);
        }
    }
}

JPLLM_INLINE void wait_for(const int64_t* counter, int64_t value) {
    for (int spins = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) != value; ++spins) {
        if (spins > 200) sched_yield();
    }
}

// One block of keys against one step of queries.
template <class T, class M>
inline void backward_step(const M& m, const AttentionArgs& a, const BackwardSizes& sizes, int64_t batch,
                          int64_t kv_head, const HeadCopy& head, int64_t index, int64_t key, int64_t stop,
                          const float* key_rank, const KeyScratch& x) {
    const int64_t pitch = M::pitch(a.dim), rows_all = whole(stop - key, kRows), line = kSweep / M::pack;
    const BackwardScratch& made = x.products;
    const int64_t begin = index * AttentionTuning::sweep, end = at_most(begin + AttentionTuning::sweep, sizes.blocks);
    Segment runs[AttentionTuning::sweep][kKeys / kRows];
    int counts[AttentionTuning::sweep] = {};
    Reach reach[kKeys / kRows];
    for (int64_t t = 0; t < kKeys / kRows; ++t) reach[t] = {kSweep, 0};
    // Every lane of the rows that the wide tiles read is written, by the tiles or with zeroes.
    for (int64_t row = rows_all; row < whole(rows_all, kWideRows); ++row) {
        memset(made.p + row * line, 0, static_cast<size_t>(line) * sizeof(float));
        memset(made.ds + row * line, 0, static_cast<size_t>(line) * sizeof(float));
    }
    for (int64_t i = begin; i < end; ++i) {
        const BackwardBlock& b = head.blocks[i];
        const int place = static_cast<int>(i - begin) * kLanes;
        const Seen whole_block = seen_vectors(b.block, key, stop, key_rank != nullptr);
        for (int64_t row = 0; row < rows_all; row += kRows) {
            const int rows = static_cast<int>(at_most(kRows, stop - key - row));
            Seen seen = whole_block;
            if (!seen.all) seen = seen_vectors(b.block, key + row, key + row + rows, key_rank != nullptr);
            if (seen.begin > 0 || seen.end < kVectors) {
                for (int r = 0; r < kRows; ++r) {
                    for (int j = 0; j < kVectors; ++j) {
                        if (j >= seen.begin && j < seen.end) continue;
                        M::zero_lanes(made.p + (row + r) * line, made.ds + (row + r) * line, place + j * V::N);
                    }
                }
            }
            if (seen.begin >= seen.end) continue;
            const int first = seen.begin * V::N, vectors = seen.end - seen.begin;
            const float* qt = head.qt + i * sizes.packed + first;
            const typename M::Tile tile(m, made, row, place + first, b.lse + first, b.delta + first);
            if (seen.all && rows == kRows) {
                probabilities<M, false>(vectors, x.k + row * pitch, pitch, qt, a.dim, tile, nullptr);
            } else {
                const Sight sight{b.block.low + first, b.block.high + first, b.block.rank + first,
                                  key_rank == nullptr ? nullptr : key_rank + row, key + row};
                probabilities<M, true>(vectors, x.k + row * pitch, pitch, qt, a.dim, tile, &sight);
            }
            slopes<M>(vectors, x.v + row * pitch, pitch, head.gt + i * sizes.packed + first, a.dim, tile);
            extend(runs[i - begin], &counts[i - begin], static_cast<int>(row), seen);
            Reach& r = reach[row / kRows];
            r.begin = r.begin < place + first ? r.begin : place + first;
            r.end = r.end > place + seen.end * V::N ? r.end : place + seen.end * V::N;
        }
    }
    add_all_keys<M>(made.p, reach, rows_all, head.g + begin * sizes.rows, a.dim, x.dv);
    add_all_keys<M>(made.ds, reach, rows_all, head.q + begin * sizes.rows, a.dim, x.dk);
    Step& step = head.steps[index];
    wait_for(&step.added, key / kKeys - step.first / kKeys);
    for (int64_t i = begin; i < end; ++i) {
        for (int n = 0; n < counts[i - begin]; ++n) {
            const Segment& run = runs[i - begin][n];
            const int first = run.begin * V::N;
            add_channels<M, kSweep>(run.end - run.begin, x.panels, run.key,
                                    made.turned + run.key / M::pack * kSweep + (i - begin) * kLanes + first,
                                    run.stop - run.key, a.dim, head.dqt + i * sizes.turned + first, nullptr);
        }
        if (key / kKeys == step.last / kKeys) {
            float scale[kLanes];
            for (float& s : scale) s = static_cast<float>(a.scale);
            turn_out<T>(a.dq, batch, kv_head * (a.heads / a.kv_heads), head.blocks[i].block, a.dim, scale,
                        head.dqt + i * sizes.turned);
        }
    }
    __atomic_fetch_add(&step.added, 1, __ATOMIC_RELEASE);
}

template <class T>
inline void store_rows(const HeadsView& x, int64_t batch, int64_t head, int64_t dim, int64_t begin, int64_t end,
                       float factor, const float* from) {
    const int64_t pitch = row_pitch(dim);
    const V f = V::set(factor);
    for (int64_t row = begin; row < end; ++row, from += pitch) {
        T* to = const_cast<T*>(row_of<T>(x, batch, row, head));
        int64_t d = 0;
        for (; d + V::N <= dim; d += V::N) (V::load(from + d) * f).store(to + d);
        if (d < dim) (V::load(from + d) * f).store_n(to + d, static_cast<int>(dim - d));
    }
}

// One block of keys against all queries that see it.
template <class T, class M>
inline void backward_keys(const M& m, const AttentionArgs& a, const BackwardSizes& sizes, int64_t batch,
                          int64_t kv_head, const HeadCopy& head, int64_t key, char* memory) {
    const int64_t stop = at_most(key + kKeys, a.keys), rows = whole(stop - key, kRows);
    const KeyScratch x(m, memory, a.dim);
    copy_rows<T>(m, a.k, batch, kv_head, a.dim, key, stop, rows, x.k);
    copy_rows<T>(m, a.v, batch, kv_head, a.dim, key, stop, rows, x.v);
    spread_rows(m, x.k, a.dim, rows, x.panels);
    memset(x.dk, 0, static_cast<size_t>(kKeys * row_pitch(a.dim)) * sizeof(float));
    memset(x.dv, 0, static_cast<size_t>(kKeys * row_pitch(a.dim)) * sizeof(float));
    float ranks[kKeys];
    if (a.key_rank != nullptr) {
        for (int64_t r = 0; r < kKeys; ++r) {
            ranks[r] = key + r < stop ? static_cast<float>(a.key_rank[batch * a.keys + key + r]) : -2.0f;
        }
    }
    for (int64_t i = 0; i < sizes.steps; ++i) {
        // Every block of keys between the first and the last takes its turn, with or without a part.
        if (head.steps[i].first >= stop || head.steps[i].last < key) continue;
        backward_step<T>(m, a, sizes, batch, kv_head, head, i, key, stop, a.key_rank == nullptr ? nullptr : ranks, x);
    }
    store_rows<T>(a.dk, batch, kv_head, a.dim, key, stop, m.key_slope_factor, x.dk);
    store_rows<T>(a.dv, batch, kv_head, a.dim, key, stop, 1.0f, x.dv);
}

struct BackwardCall {
    AttentionArgs args;
    char *heads, *threads;  // memory
    int64_t together;       // heads at a time
    int64_t next[2];
};

template <class T, class M>
inline void backward_team(const Team& team, void* context) {
    BackwardCall& c = *static_cast<BackwardCall*>(context);
    const AttentionArgs& a = c.args;
    const M m(a.scale);
    const BackwardSizes sizes(m, a);
    const size_t head_bytes = sizes.head_bytes();
    const int64_t heads = a.batch * a.kv_heads, blocks = (a.keys + kKeys - 1) / kKeys;
    for (int64_t from = 0; from < heads; from += c.together) {
        const int64_t now = at_most(c.together, heads - from);
        for (int64_t task = take_next(&c.next[0]); task < now * sizes.steps; task = take_next(&c.next[0])) {
            const int64_t h = from + task / sizes.steps;
            const HeadCopy head = sizes.head(c.heads + static_cast<size_t>(h - from) * head_bytes);
            prepare_step<T>(m, a, sizes, h / a.kv_heads, h % a.kv_heads, task % sizes.steps, head);
        }
        team.barrier();
        if (team.id == 0) c.next[0] = 0;
        for (int64_t task = take_next(&c.next[1]); task < now * blocks; task = take_next(&c.next[1])) {
            const int64_t h = from + task / blocks;
            const HeadCopy head = sizes.head(c.heads + static_cast<size_t>(h - from) * head_bytes);
            backward_keys<T>(m, a, sizes, h / a.kv_heads, h % a.kv_heads, head, task % blocks * kKeys,
                             c.threads + static_cast<size_t>(team.id) * KeyScratch::bytes(m, a.dim));
        }
        team.barrier();
        if (team.id == 0) c.next[1] = 0;
    }
}

template <class T, class M>
inline int backward(const M& m, const AttentionArgs& a, int threads) {
    if (a.batch == 0 || a.keys == 0 || a.heads == 0) return 0;
    const double work = 10.0 * static_cast<double>(a.batch * a.heads * a.queries) * static_cast<double>(a.keys * a.dim);
    threads = worthwhile(threads, work / 50.0);
    const BackwardSizes sizes(m, a);
    const int64_t heads = a.batch * a.kv_heads, blocks = (a.keys + kKeys - 1) / kKeys;
    // Heads whose copies are held at a time: enough blocks of keys for the threads.
    const int64_t wanted = threads == 1 ? 1 : (8 * threads + blocks - 1) / blocks;
    BackwardCall call{a, nullptr, nullptr, at_most(heads, wanted), {0, 0}};
    const size_t for_heads = sizes.head_bytes() * static_cast<size_t>(call.together);
    call.heads = static_cast<char*>(workspace(for_heads + KeyScratch::bytes(m, a.dim) * static_cast<size_t>(threads)));
    if (call.heads == nullptr) return 1;
    call.threads = call.heads + for_heads;
    run_team(threads, backward_team<T, M>, &call);
    return 0;
}

template <class T>
inline int attention_backward(const AttentionArgs& a, int threads) {
    return with_engine(static_cast<const T*>(nullptr), a.scale,
                       [&](const auto& m) { return backward<T>(m, a, threads); });
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
