// Rows of a table by number, and the gradient of that: a stable counting sort of the tokens by their row, then each
// row's sum in FP32 in the order of the tokens, whatever the threads. Letters: N tokens, V rows, D width.
#pragma once
#include "../core/stream.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

struct EmbeddingCall {
    EmbeddingArgs args;
    int fault;
};

template <class T>
inline int embedding(const EmbeddingArgs& args, int threads) {
    EmbeddingCall call{args, 0};
    run_team(
        worthwhile(threads, static_cast<double>(args.n) * static_cast<double>(args.d) * 0.2),
        [](const Team& team, void* context) {
            EmbeddingCall& c = *static_cast<EmbeddingCall*>(context);
            const EmbeddingArgs& a = c.args;
            int64_t start, stop;
            team.split(a.n, 1, &start, &stop);
            for (int64_t i = start; i < stop; ++i) {
                if (a.ids[i] < 0 || a.ids[i] >= a.v) {
                    __atomic_store_n(&c.fault, kBadIndex, __ATOMIC_RELAXED);
                    break;
                }
                const T* from = row<T>(a.x, a.ids[i]);
                T* const to[1] = {row<T>(a.y, i)};
                const bool more = i + 1 < stop && a.ids[i + 1] >= 0 && a.ids[i + 1] < a.v;
                const T* next = more ? row<T>(a.x, a.ids[i + 1]) : from;
                write_rows(to, a.d, a.past_caches, [&](auto at, auto(&r)[1]) {
                    prefetch_step(next + at.j);
                    r[0] = at.load(from);
                });
            }
            if (a.past_caches) stream_end();
        },
        &call);
    return call.fault;
}

// Tokens by row: those of row r are order[first[r] .. first[r + 1]), in their own order.
struct TokensOfRows {
    int64_t *first, *order;
};

inline bool sort_tokens(const EmbeddingArgs& a, const TokensOfRows& t) {
    memset(t.first, 0, static_cast<size_t>(a.v + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < a.n; ++i) {
        if (a.ids[i] < 0 || a.ids[i] >= a.v) return false;
        ++t.first[a.ids[i]];
    }
    int64_t before = 0;
    for (int64_t r = 0; r <= a.v; ++r) {
        const int64_t count = t.first[r];
        t.first[r] = before;
        before += count;
    }
    // Each row's place moves to its end, which is where the next row begins.
    for (int64_t i = 0; i < a.n; ++i) t.order[t.first[a.ids[i]]++] = i;
    for (int64_t r = a.v; r > 0; --r) t.first[r] = t.first[r - 1];
    t.first[0] = 0;
    return true;
}

constexpr int kTokensAtOnce = 4;

// sums[0..n) (+)= up to kTokensAtOnce rows, one after the other.
template <int COUNT, class T>
inline void add_tokens(const EmbeddingArgs& a, const int64_t* tokens, bool first, int64_t from, int64_t n,
                       float* sums) {
    const T* x[COUNT];
    for (int k = 0; k < COUNT; ++k) x[k] = row<T>(a.x, tokens[k]) + from;
    for_steps(n, [&](auto at) {
        auto s = at.load(x[0]);
        if (!first) s = at.load(sums) + s;
        JPLLM_UNROLL for (int k = 1; k < COUNT; ++k)
            s = s + at.load(x[k]);
        at.store(s, sums);
    });
}

// Columns [from, from + n) of row r of the gradient. `sums` holds n floats.
template <class T>
inline void embedding_gradient(const EmbeddingArgs& a, const TokensOfRows& t, int64_t r, int64_t from, int64_t n,
                               float* sums) {
    const int64_t first = t.first[r], last = t.first[r + 1];
    T* const y[1] = {row<T>(a.y, r) + from};
    const T* next = last == first ? y[0] : row<T>(a.x, t.order[last < a.n ? last : first]) + from;
    if (last - first <= 1) {
        if (last == first) {
            write_rows(y, n, a.past_caches, [](auto, auto(&v)[1]) { v[0] = v[0].zero(); });
        } else {
            const T* x = row<T>(a.x, t.order[first]) + from;
            write_rows(y, n, a.past_caches, [&](auto at, auto(&v)[1]) {
                prefetch_step(next + at.j);
                v[0] = at.load(x);
            });
        }
        return;
    }
    int64_t i = first;
    for (; i + kTokensAtOnce <= last; i += kTokensAtOnce) {
        add_tokens<kTokensAtOnce, T>(a, t.order + i, i == first, from, n, sums);
    }
    for (; i < last; ++i) add_tokens<1, T>(a, t.order + i, i == first, from, n, sums);
    write_rows(y, n, a.past_caches, [&](auto at, auto(&v)[1]) {
        prefetch_step(next + at.j);
        v[0] = at.load(sums);
    });
}

struct EmbeddingBackwardCall {
    EmbeddingArgs args;
    TokensOfRows tokens;
    float* sums;  // a row of each thread
    int fault;
};

inline int64_t floats_of_row(int64_t d) { return round_up(d, 64); }

// The row at which a part of rows and tokens begins that is `part` of `parts` of the work.
inline int64_t row_of_part(const TokensOfRows& t, int64_t rows, int64_t part, int64_t parts) {
    const int64_t work = (rows + t.first[rows]) / parts * part;
    int64_t low = 0, high = rows;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (middle + t.first[middle] < work) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return part == parts ? rows : low;
}

template <class T>
inline void embedding_backward_team(const Team& team, EmbeddingBackwardCall& c) {
    const EmbeddingArgs& a = c.args;
    if (team.id == 0 && !sort_tokens(a, c.tokens)) c.fault = kBadIndex;
    team.barrier();
    if (c.fault != 0) return;
    float* sums = c.sums + team.id * floats_of_row(a.d);
    const int64_t start = row_of_part(c.tokens, a.v, team.id, team.size);
    const int64_t stop = row_of_part(c.tokens, a.v, team.id + 1, team.size);
    // A row with so many tokens that it would keep one thread busy alone is split by columns.
    const int64_t many = team.size == 1 ? a.n + 1 : a.n / (4 * team.size) + kTokensAtOnce;
    for (int64_t r = start; r < stop; ++r) {
        if (c.tokens.first[r + 1] - c.tokens.first[r] < many) {
            embedding_gradient<T>(a, c.tokens, r, 0, a.d, sums);
        }
    }
    int64_t from, to;
    team.split(a.d, V::N, &from, &to);
    for (int64_t r = 0; r < a.v && many <= a.n; ++r) {
        if (c.tokens.first[r + 1] - c.tokens.first[r] >= many) {
            embedding_gradient<T>(a, c.tokens, r, from, to - from, sums);
        }
    }
    if (a.past_caches) stream_end();
}

template <class T>
inline int embedding_backward(const EmbeddingArgs& args, int threads) {
    const int team_size = worthwhile(
        threads, (static_cast<double>(args.n) + static_cast<double>(args.v)) * static_cast<double>(args.d) * 0.2);
    const int64_t numbers = args.v + 1 + args.n, floats = team_size * floats_of_row(args.d);
    int64_t* memory = static_cast<int64_t*>(
        workspace(static_cast<size_t>(numbers) * sizeof(int64_t) + static_cast<size_t>(floats) * sizeof(float)));
    if (memory == nullptr) return 1;
    EmbeddingBackwardCall call{args, {memory, memory + args.v + 1}, reinterpret_cast<float*>(memory + numbers), 0};
    run_team(
        team_size,
        [](const Team& team, void* context) {
            embedding_backward_team<T>(team, *static_cast<EmbeddingBackwardCall*>(context));
        },
        &call);
    return call.fault;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
