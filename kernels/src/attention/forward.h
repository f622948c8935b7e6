// Attention forward: scores, softmax and the sum of values block by block (Dao et al., 2022, arXiv:2205.14135), with
// the queries along the vector lanes, so that maxima, sums and factors of the softmax are vertical:
//   S^T = K Q^T, P^T = exp2(S^T - max), O^T = O^T exp2(old max - max) + V^T P^T.
// The scale and log2(e) are folded into Q or, by pairs of BF16, into the exponent (pairs.h).
#pragma once
#include "blocks.h"
#include "pairs.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

struct alignas(64) Softmax {
    float peak[kLanes], sum[kLanes], factor[kLanes];
};

struct ForwardState {
    Block block;
    Softmax softmax;
    float *qt, *ot;  // [D][kLanes]
};

template <class M, bool kHide>
JPLLM_INLINE void score(int vectors, const float* k, int64_t pitch, const float* qt, int64_t dim, float* s, float* peak,
                        const Sight* sight) {
    if (vectors == 1) {
        score_tile<M, 1, kHide>(k, pitch, qt, dim, s, peak, sight);
    } else if (vectors == 2) {
        score_tile<M, 2, kHide>(k, pitch, qt, dim, s, peak, sight);
    } else {
        score_tile<M, kVectors, kHide>(k, pitch, qt, dim, s, peak, sight);
    }
}

// exp2(s - peak) over rows [key, stop) in place; returns sum + the rows' sum. Four at a time hide the latencies.
JPLLM_INLINE V exponentials(InFloats, float* s, int rows, V peak, V sum) {
    V part[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    int r = 0;
    for (; r + 4 <= rows; r += 4, s += 4 * kLanes) {
        JPLLM_UNROLL for (int i = 0; i < 4; ++i) {
            const V p = exp2_negative(V::load(s + i * kLanes) - peak);
            p.store(s + i * kLanes);
            part[i] = part[i] + p;
        }
    }
    for (; r < rows; ++r, s += kLanes) {
        const V p = exp2_negative(V::load(s) - peak);
        p.store(s);
        part[0] = part[0] + p;
    }
    return sum + ((part[0] + part[1]) + (part[2] + part[3]));
}

// Keys [key, stop) of the copied block for one block of queries; s is the scratch for the scores.
template <class M>
inline void forward_block(const M& m, const AttentionArgs& a, ForwardState* state, const float* k, const float* v,
                          int64_t key, int64_t stop, const float* key_rank, float* s) {
    const Block& block = state->block;
    Softmax& soft = state->softmax;
    const int64_t pitch = M::pitch(a.dim);
    Segment segments[kKeys / kRows];
    int count = 0, widest = 0;
    const Seen whole_block = seen_vectors(block, key, stop, key_rank != nullptr);
    float old[kLanes];
    memcpy(old, soft.peak, sizeof old);
    for (int64_t row = 0; row < stop - key; row += kRows) {
        const int rows = static_cast<int>(at_most(kRows, stop - key - row));
        Seen seen = whole_block;
        if (!seen.all) seen = seen_vectors(block, key + row, key + row + rows, key_rank != nullptr);
        if (seen.begin >= seen.end) continue;
        const int first = seen.begin * V::N;
        const float *rows_k = k + row * pitch, *rows_q = state->qt + first;
        float* rows_s = s + row * kLanes + first;
        if (seen.all && rows == kRows) {
            score<M, false>(seen.end - seen.begin, rows_k, pitch, rows_q, a.dim, rows_s, soft.peak + first, nullptr);
        } else {
            // Behind the last key there are rows of zeroes, which no query sees: no lane's `high` is as large.
            const Sight sight{block.low + first, block.high + first, block.rank + first,
                              key_rank == nullptr ? nullptr : key_rank + row, key + row};
            score<M, true>(seen.end - seen.begin, rows_k, pitch, rows_q, a.dim, rows_s, soft.peak + first, &sight);
        }
        extend(segments, &count, static_cast<int>(row), seen);
        const Segment &wide = segments[widest], &now = segments[count - 1];
        if (now.end - now.begin > wide.end - wide.begin) widest = count - 1;
    }
    if (count == 0) return;
    bool same = true;
    for (int j = 0; j < kVectors; ++j) {
        const V before = m.scaled(V::load(old + j * V::N));
        // Where a query has seen no key the maximum is -infinity, and -infinity less itself is NaN.
        const V peak = max(m.scaled(V::load(soft.peak + j * V::N)), V::set(-3.402823466e38f));
        const V factor = exp2_negative(before - peak);
        factor.store(soft.factor + j * V::N);
        V sum = V::load(soft.sum + j * V::N) * factor;
        for (int i = 0; i < count; ++i) {
            if (segments[i].begin > j || segments[i].end <= j) continue;
            sum =
                exponentials(m, s + segments[i].key * kLanes + j * V::N, segments[i].stop - segments[i].key, peak, sum);
        }
        sum.store(soft.sum + j * V::N);
    }
    for (int l = 0; l < kLanes; ++l) same = same && soft.factor[l] == 1.0f;
    // The widest run first: it takes the factor along for all vectors, if it has them all.
    const float* factor = same ? nullptr : soft.factor;
    if (factor != nullptr && (segments[widest].begin > 0 || segments[widest].end < kVectors)) {
        for (int64_t d = 0; d < a.dim; ++d) {
            for (int j = 0; j < kLanes; j += V::N) {
                float* o = state->ot + d * kLanes + j;
                (V::load(o) * V::load(factor + j)).store(o);
            }
        }
        factor = nullptr;
    }
    for (int i = 0; i < count; ++i) {
        const Segment& run = segments[i == 0 ? widest : i <= widest ? i - 1 : i];
        const int first = run.begin * V::N;
        add_channels<M, kLanes>(run.end - run.begin, v, run.key, s + run.key * kLanes + first, run.stop - run.key,
                                a.dim, state->ot + first, i == 0 && factor != nullptr ? factor + first : nullptr);
    }
}

inline void begin_block(ForwardState* state, int64_t dim) {
    memset(state->ot, 0, static_cast<size_t>(whole(dim, 16) * kLanes) * sizeof(float));
    for (int l = 0; l < kLanes; ++l) state->softmax.peak[l] = -__builtin_inff(), state->softmax.sum[l] = 0.0f;
}

template <class T, class M>
inline void end_block(const M& m, const AttentionArgs& a, int64_t batch, int64_t kv_head, ForwardState* state) {
    const Block& block = state->block;
    Softmax& soft = state->softmax;
    const int64_t first_head = kv_head * (a.heads / a.kv_heads);
    // By vectors, whose division is no FDIV where that blocks the pipe.
    for (int l = 0; l < kLanes; l += V::N) (V::set(1.0f) / V::load(soft.sum + l)).store(soft.factor + l);
    for (int l = 0; l < block.count; ++l) {
        // A query that saw nothing gives zeroes, and a log-sum-exp of -infinity.
        const float sum = soft.sum[l];
        if (sum == 0.0f) soft.factor[l] = 0.0f;
        a.lse[(batch * a.heads + first_head + block.head[l]) * a.queries + block.query[l]] =
            sum == 0.0f
                ? -__builtin_inff()
                : static_cast<float>(kLn2 * static_cast<double>(m.score_factor * soft.peak[l])) + __builtin_logf(sum);
    }
    turn_out<T>(a.out, batch, first_head, block, a.dim, soft.factor, state->ot);
}

// A thread's scratch: scores, and the states of `blocks` query blocks.
struct ForwardScratch {
    float* s;
    ForwardState* states;
    float* channels;

    static size_t bytes(int64_t dim, int64_t blocks) {
        const size_t floats = static_cast<size_t>(kKeys * kLanes + blocks * 2 * whole(dim, 16) * kLanes);
        return (floats * sizeof(float) + static_cast<size_t>(blocks) * sizeof(ForwardState) + 4095) / 4096 * 4096;
    }
    static ForwardScratch at(char* memory, int64_t dim, int64_t blocks) {
        ForwardScratch x;
        x.s = reinterpret_cast<float*>(memory);
        x.channels = x.s + kKeys * kLanes;
        x.states = reinterpret_cast<ForwardState*>(x.channels + blocks * 2 * whole(dim, 16) * kLanes);
        return x;
    }
};

// The keys and values of one head from the first that any query sees, copied in blocks of kKeys: keys row by row,
// values in panels of channels.
struct KeyCopy {
    int64_t first, blocks, block;  // the first key, blocks of keys, words of a block
    template <class M>
    KeyCopy(const M&, const AttentionArgs& a) {
        const int64_t oldest = a.window > 0 ? at_least(0, a.keys - a.queries - a.window + 1) : 0;
        first = oldest / kKeys * kKeys;
        blocks = (a.keys - first + kKeys - 1) / kKeys, block = kKeys * M::pitch(a.dim);
    }
    int64_t words() const { return 2 * blocks * block; }
};

// Query blocks [begin, end) of a key/value head, together: a block of keys stays in the cache for all of them.
template <class T, class M>
inline void forward_group(const M& m, const AttentionArgs& a, int64_t batch, int64_t kv_head, int64_t begin,
                          int64_t end, const KeyCopy& copy, const float* copied, const ForwardScratch& x) {
    const int64_t first_head = kv_head * (a.heads / a.kv_heads), depth = whole(a.dim, 16) * kLanes;
    int64_t first = a.keys, last = -1;
    for (int64_t i = begin; i < end; ++i) {
        ForwardState* state = x.states + (i - begin);
        state->qt = x.channels + 2 * (i - begin) * depth, state->ot = state->qt + depth;
        find_block(a, batch, i, &state->block);
        begin_block(state, a.dim);
        turn_in<T>(m, a.q, batch, first_head, state->block, a.dim, m.query_factor, state->qt);
        first = at_most(first, state->block.first), last = at_least(last, state->block.last);
    }
    for (int64_t key = first / kKeys * kKeys; key <= last; key += kKeys) {
        const int64_t stop = at_most(key + kKeys, a.keys);
        const float* k = copied + 2 * ((key - copy.first) / kKeys) * copy.block;
        float ranks[kKeys];
        if (a.key_rank != nullptr) {
            for (int64_t r = 0; r < kKeys; ++r) {
                ranks[r] = key + r < stop ? static_cast<float>(a.key_rank[batch * a.keys + key + r]) : -2.0f;
            }
        }
        for (int64_t i = begin; i < end; ++i) {
            ForwardState* state = x.states + (i - begin);
            if (!state->block.sees(key, stop)) continue;
            forward_block(m, a, state, k, k + copy.block, key, stop, a.key_rank == nullptr ? nullptr : ranks, x.s);
        }
    }
    for (int64_t i = begin; i < end; ++i) end_block<T>(m, a, batch, kv_head, x.states + (i - begin));
}

struct ForwardCall {
    AttentionArgs args;
    float* copies;
    char* memory;
    size_t each;
    int64_t blocks, group, groups, together;
    int64_t next[2];
};

template <class T, class M>
inline void forward_team(const Team& team, void* context) {
    ForwardCall& c = *static_cast<ForwardCall*>(context);
    const AttentionArgs& a = c.args;
    const M m(a.scale);
    const KeyCopy copy(m, a);
    const ForwardScratch scratch = ForwardScratch::at(c.memory + static_cast<size_t>(team.id) * c.each, a.dim, c.group);
    const int64_t heads = a.batch * a.kv_heads;
    for (int64_t from = 0; from < heads; from += c.together) {
        const int64_t now = at_most(c.together, heads - from);
        for (int64_t task = take_next(&c.next[0]); task < now * copy.blocks; task = take_next(&c.next[0])) {
            const int64_t head = from + task / copy.blocks, key = copy.first + task % copy.blocks * kKeys;
            const int64_t stop = at_most(key + kKeys, a.keys);
            float* to = c.copies + 2 * task * copy.block;
            copy_rows<T>(m, a.k, head / a.kv_heads, head % a.kv_heads, a.dim, key, stop, whole(stop - key, kRows), to);
            copy_panels<T>(m, a.v, head / a.kv_heads, head % a.kv_heads, a.dim, key, stop, whole(stop - key, kRows),
                           to + copy.block);
        }
        team.barrier();
        if (team.id == 0) c.next[0] = 0;
        for (int64_t task = take_next(&c.next[1]); task < now * c.groups; task = take_next(&c.next[1])) {
            // The last positions have the most keys: they come first, so that no thread is left with a long one.
            const int64_t head = from + task % now, group = c.groups - 1 - task / now;
            forward_group<T>(m, a, head / a.kv_heads, head % a.kv_heads, group * c.group,
                             at_most((group + 1) * c.group, c.blocks), copy, c.copies + (head - from) * copy.words(),
                             scratch);
        }
        team.barrier();
        if (team.id == 0) c.next[1] = 0;
    }
}

template <class T, class M>
inline int forward(const M& m, const AttentionArgs& a, int threads) {
    if (a.batch == 0 || a.queries == 0 || a.heads == 0) return 0;
    const double work = 4.0 * static_cast<double>(a.batch * a.heads * a.queries) * static_cast<double>(a.keys * a.dim);
    threads = worthwhile(threads, work / 50.0);
    const int64_t blocks = query_blocks(a), heads = a.batch * a.kv_heads;
    // Blocks that share a read of the keys; fewer where threads would stand idle.
    int64_t group = at_least(1, at_most(blocks, AttentionTuning::queries / kLanes));
    if (threads > 1) group = at_least(1, at_most(group, blocks * heads / (4 * threads)));
    const int64_t groups = (blocks + group - 1) / group;
    const int64_t together = at_most(heads, threads == 1 ? 1 : (4 * threads + groups - 1) / groups);
    const size_t each = ForwardScratch::bytes(a.dim, group);
    const size_t copies = static_cast<size_t>(together * KeyCopy(m, a).words()) * sizeof(float);
    char* memory = static_cast<char*>(workspace(copies + each * static_cast<size_t>(threads)));
    if (memory == nullptr) return 1;
    ForwardCall call{a,     reinterpret_cast<float*>(memory), memory + copies, each, blocks, group, groups, together,
                     {0, 0}};
    run_team(threads, forward_team<T, M>, &call);
    return 0;
}

template <class T>
inline int attention_forward(const AttentionArgs& a, int threads) {
    return with_engine(static_cast<const T*>(nullptr), a.scale,
                       [&](const auto& m) { return forward<T>(m, a, threads); });
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
