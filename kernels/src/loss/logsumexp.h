// A linear layer with a log-sum-exp over its outputs, the heart of the cross-entropy of a language model, without ever
// holding all logits: chunks of tokens x vocabulary go through one scratch, forward with a running maximum and sum
// (Milakov & Gimelshein, arXiv:1805.02867), backward by making the chunk anew and turning it into dlogits in place.
//
// Letters: N tokens, V vocabulary (`vocabulary` in code, V is the vector type), D model width.
#pragma once
#include "../../simd/math.h"
#include "../core/rows.h"
#include "../gemm/gemm.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

constexpr int64_t kChunkTokens = 1024, kChunkVocabulary = 1024;  // 4 MiB of logits

struct LogsumexpCall {
    LogsumexpArgs a;
    float *logits, *maximum, *total;
    GemmSpace space;
};

// Sets up the scratch of a call; 1 where there is no memory.
inline int prepare(const LogsumexpArgs& a, LogsumexpCall* call) {
    const int64_t n = least(a.n, kChunkTokens), v = least(a.v, kChunkVocabulary);
    const int64_t widest = n > v ? n : v;
    // The largest of the products: logits n x v over d; dhidden n x d over v; dweight v x d over n.
    const int64_t packed = GemmSpace::floats(widest > a.d ? widest : a.d, widest, widest > a.d ? widest : a.d);
    const int64_t floats = round_up(n * v, 64) + 2 * round_up(n, 64) + packed + 64;
    float* memory = static_cast<float*>(workspace(static_cast<size_t>(floats) * sizeof(float)));
    if (memory == nullptr) return 1;
    call->a = a;
    call->logits = memory;
    call->maximum = memory + round_up(n * v, 64);
    call->total = call->maximum + round_up(n, 64);
    const int64_t big = widest > a.d ? widest : a.d;
    call->space = GemmSpace::at(call->total + round_up(n, 64), big, widest, big);
    return 0;
}

// logits[n, v] of the chunk that starts at (n0, v0).
inline void logits_chunk(const Team& team, const LogsumexpCall& c, int64_t n0, int64_t n, int64_t v0, int64_t v) {
    const LogsumexpArgs& a = c.a;
    gemm_team(team,
              GemmArgs{n, v, a.d, a.hidden + n0 * a.hidden_rs, a.hidden_rs, a.hidden_cs, a.weight + v0 * a.weight_rs,
                       a.weight_cs, a.weight_rs, c.logits, v, 1, nullptr, 0, 0, false},
              c.space);
}

inline void forward_rows(const Team& team, const LogsumexpCall& c, int64_t n0, int64_t n, int64_t v0, int64_t v) {
    int64_t start, stop;
    team.split(n, 1, &start, &stop);
    for (int64_t i = start; i < stop; ++i) {
        const float* row = c.logits + i * v;
        V top = V::set(-__builtin_inff());
        for_vectors(v, [&](int64_t j, int lanes) {
            top = max(top,
                      lanes == V::N ? V::load(row + j) : first_n(V::load_n(row + j, lanes), lanes, -__builtin_inff()));
        });
        const float before = v0 == 0 ? -__builtin_inff() : c.maximum[i], here = max_lane(top);
        const float now = here > before ? here : before;
        const V shift = V::set(now);
        const float added = sum_of(v, [&](int64_t j, int lanes, V s) {
            const V e = exp(load_part(row + j, lanes) - shift);
            return s + (lanes == V::N ? e : first_n(e, lanes, 0.0f));
        });
        c.total[i] = v0 == 0 ? added : c.total[i] * __builtin_expf(before - now) + added;
        c.maximum[i] = now;
        const int64_t target = c.a.targets[n0 + i] - v0;
        if (v0 == 0) c.a.target_out[n0 + i] = 0.0f;
        if (target >= 0 && target < v) c.a.target_out[n0 + i] = row[target];
    }
}

inline void forward_team(const Team& team, void* context) {
    const LogsumexpCall& c = *static_cast<LogsumexpCall*>(context);
    for (int64_t n0 = 0; n0 < c.a.n; n0 += kChunkTokens) {
        const int64_t n = least(kChunkTokens, c.a.n - n0);
        for (int64_t v0 = 0; v0 < c.a.v; v0 += kChunkVocabulary) {
            const int64_t v = least(kChunkVocabulary, c.a.v - v0);
            logits_chunk(team, c, n0, n, v0, v);
            forward_rows(team, c, n0, n, v0, v);
        }
        int64_t start, stop;
        team.split(n, 1, &start, &stop);  // the same rows as in forward_rows: no barrier needed
        for (int64_t i = start; i < stop; ++i) {
            c.a.lse_out[n0 + i] = c.maximum[i] + __builtin_logf(c.total[i]);
        }
    }
}

inline double logsumexp_nanoseconds(const LogsumexpArgs& a) {
    return static_cast<double>(a.n) * static_cast<double>(a.v) * (static_cast<double>(a.d) / 25.0 + 1.0);
}

inline int linear_logsumexp(const LogsumexpArgs& args, int threads) {
    LogsumexpCall call;
    if (prepare(args, &call) != 0) return 1;
    run_team(worthwhile(threads, logsumexp_nanoseconds(args)), forward_team, &call);
    return 0;
}

// logits -> dlogits = dlse softmax + dtarget onehot, in place.
inline void backward_rows(const Team& team, const LogsumexpCall& c, int64_t n0, int64_t n, int64_t v0, int64_t v) {
    int64_t start, stop;
    team.split(n, 1, &start, &stop);
    for (int64_t i = start; i < stop; ++i) {
        float* row = c.logits + i * v;
        const V shift = V::set(c.a.lse[n0 + i]), scale = V::set(c.a.dlse[n0 + i]);
        for_vectors(v, [&](int64_t j, int lanes) {
            store_part(scale * exp(load_part(row + j, lanes) - shift), row + j, lanes);
        });
        const int64_t target = c.a.targets[n0 + i] - v0;
        if (target >= 0 && target < v) row[target] += c.a.dtarget[n0 + i];
    }
    team.barrier();
}

inline void backward_team(const Team& team, void* context) {
    const LogsumexpCall& c = *static_cast<LogsumexpCall*>(context);
    const LogsumexpArgs& a = c.a;
    for (int64_t n0 = 0; n0 < a.n; n0 += kChunkTokens) {
        const int64_t n = least(kChunkTokens, a.n - n0);
        for (int64_t v0 = 0; v0 < a.v; v0 += kChunkVocabulary) {
            const int64_t v = least(kChunkVocabulary, a.v - v0);
            logits_chunk(team, c, n0, n, v0, v);
            backward_rows(team, c, n0, n, v0, v);
            if (a.dhidden != nullptr) {
                gemm_team(team,
                          GemmArgs{n, a.d, v, c.logits, v, 1, a.weight + v0 * a.weight_rs, a.weight_rs, a.weight_cs,
                                   a.dhidden + n0 * a.d, a.d, 1, nullptr, 0, 0, v0 > 0},
                          c.space);
            }
            if (a.dweight != nullptr) {
                gemm_team(team,
                          GemmArgs{v, a.d, n, c.logits, 1, v, a.hidden + n0 * a.hidden_rs, a.hidden_rs, a.hidden_cs,
                                   a.dweight + v0 * a.d, a.d, 1, nullptr, 0, 0, n0 > 0},
                          c.space);
            }
        }
    }
}

inline int linear_logsumexp_backward(const LogsumexpArgs& args, int threads) {
    LogsumexpCall call;
    if (prepare(args, &call) != 0) return 1;
    run_team(worthwhile(threads, 3.0 * logsumexp_nanoseconds(args)), backward_team, &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
