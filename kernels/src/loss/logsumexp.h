// The log-sum-exp of a linear layer's outputs and their gradients, for a head whose loss is finished elsewhere (a part
// of the vocabulary): blocks of tokens and words go through one scratch, and backward makes the logits again.
#pragma once
#include "halves.h"
#include "softmax.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

constexpr int64_t kOnlineTokens = 1024, kOnlineWords = 1024;  // 4 MiB of logits

// The running maximum and sum of tokens [n0, n0 + n), block after block of the vocabulary, in one block's memory or,
// with `keep`, each block in its own (softmax.h).
inline void take_tokens(const Team& team, const HeadArgs& head, const Cut& cut, const Products& products,
                        const RowState& state, float* logits, int64_t n0, int64_t n, bool keep) {
    for (int64_t block = 0; block < cut.blocks(head.v); ++block) {
        const int64_t v0 = block * cut.words, words = least(cut.words, head.v - v0);
        float* at = logits + (keep ? block * cut.block_floats() : 0);
        products.multiply(team, n, words, head.d, hidden_rows(head, n0), weight_rows(head, v0).turned(), at, words,
                          false);
        take_block(team, state, head.targets + n0, n, block, v0, words, at, keep);
    }
}

struct LogsumexpCall {
    LogsumexpArgs a;
    Cut cut;
    Products products;
    RowState state;
    float* logits;
};

inline void logsumexp_team(const Team& team, void* context) {
    const LogsumexpCall& c = *static_cast<LogsumexpCall*>(context);
    const HeadArgs& head = c.a.head;
    for (int64_t n0 = 0; n0 < head.n; n0 += c.cut.tokens) {
        const int64_t n = least(c.cut.tokens, head.n - n0);
        take_tokens(team, head, c.cut, c.products, c.state, c.logits, n0, n, false);
        int64_t start, stop;
        team.split(n, 1, &start, &stop);  // the same rows as in take_block: no barrier needed
        for (int64_t i = start; i < stop; ++i) {
            c.a.lse[n0 + i] = static_cast<float>(c.state.lse(c.cut.blocks(head.v), i));
            c.a.target_logit[n0 + i] = c.state.target[i];
        }
    }
}

inline int linear_logsumexp(const LogsumexpArgs& args, int threads) {
    if (args.head.n == 0) return 0;
    const Cut cut = cut_head(args.head, kOnlineTokens, kOnlineWords);
    const int64_t rows = RowState::floats(cut, cut.blocks(args.head.v));
    const int64_t floats = rows + cut.block_floats() + Products::floats(cut, args.head.d);
    float* memory = static_cast<float*>(workspace(static_cast<size_t>(floats) * sizeof(float)));
    if (memory == nullptr) return 1;
    const Products products{memory + rows + cut.block_floats(), args.head.math, args.head.chunk};
    LogsumexpCall call{args, cut, products, RowState::at(memory, cut), memory + rows};
    run_team(worthwhile(threads, head_nanoseconds(args.head, 1)), logsumexp_team, &call);
    return 0;
}

struct LogsumexpBackwardCall {
    LogsumexpBackwardArgs a;
    Cut cut;
    Products products;
    float *logits, *dhidden;
    Largest largest;
};

// logits -> dlogits = dlse softmax + dtarget onehot, in place. T is the type they are stored in; rows stay `words`
// floats apart. Ends with a barrier.
template <class T>
inline void dlogits_rows(const Team& team, const LogsumexpBackwardArgs& a, int64_t n0, int64_t n, int64_t v0,
                         int64_t words, float* logits) {
    int64_t start, stop;
    team.split(n, 1, &start, &stop);
    for (int64_t i = start; i < stop; ++i) {
        const float* row = logits + i * words;
        T* out = reinterpret_cast<T*>(logits + i * words);
        const V shift = V::set(a.lse[n0 + i]), scale = V::set(a.dlse[n0 + i]);
        const int64_t target = a.head.targets[n0 + i] - v0;
        const bool here = target >= 0 && target < words;
        float at_target = 0.0f;
        if (here) (scale * exp(V::set(row[target]) - shift)).store_n(&at_target, 1), at_target += a.dtarget[n0 + i];
        for_vectors(words, [&](int64_t j, int lanes) {
            store_part(scale * exp(load_part(row + j, lanes) - shift), out + j, lanes);
        });
        if (here) out[target] = from_float<T>(at_target);
    }
    team.barrier();
}

// FP32 rows summed in scratch times `factor`, rounded once to the storage type; every thread its share.
inline void round_rows(const Team& team, const float* from, int64_t rows, int64_t d, float factor, StorageType type,
                       void* to) {
    int64_t start, stop;
    team.split(rows * d, V::N, &start, &stop);
    const V by = V::set(factor);
    for_vectors(stop - start, [&](int64_t j, int lanes) {
        const V x = by * load_part(from + start + j, lanes);
        if (type == kBf16) store_part(x, static_cast<bf16*>(to) + start + j, lanes);
        if (type == kFp16) store_part(x, static_cast<fp16*>(to) + start + j, lanes);
    });
    team.barrier();
}

// The two gradients that a block of dlogits [n, words] adds to.
inline void add_gradients(const Team& team, const HeadArgs& head, const Products& products, const Dlogits& dlogits,
                          int64_t n0, int64_t n, int64_t v0, int64_t words, float* dhidden, float* dweight,
                          bool first_words, bool first_tokens) {
    if (dhidden != nullptr) {
        products.multiply(team, n, head.d, words, dlogits.of_hidden, weight_rows(head, v0), dhidden, head.d,
                          !first_words);
    }
    if (dweight != nullptr) {
        products.multiply(team, words, head.d, n, dlogits.of_weight.turned(), hidden_rows(head, n0),
                          dweight + v0 * head.d, head.d, !first_tokens);
    }
}

// Where the sums of a chunk's dhidden are made: in the output itself, or in scratch where that is of 16 bits.
inline float* dhidden_sums(const HeadArgs& head, void* dhidden, float* scratch, int64_t n0) {
    if (dhidden == nullptr) return nullptr;
    return head.type == kFp32 ? static_cast<float*>(dhidden) + n0 * head.d : scratch;
}

inline void logsumexp_backward_team(const Team& team, void* context) {
    LogsumexpBackwardCall& c = *static_cast<LogsumexpBackwardCall*>(context);
    const HeadArgs& head = c.a.head;
    const Scales scales = gradient_scales(team, head, c.a.dlse, c.a.dtarget, &c.largest);
    for (int64_t n0 = 0; n0 < head.n; n0 += c.cut.tokens) {
        const int64_t n = least(c.cut.tokens, head.n - n0);
        float* dhidden = dhidden_sums(head, c.a.dhidden, c.dhidden, n0);
        for (int64_t v0 = 0; v0 < head.v; v0 += c.cut.words) {
            const int64_t words = least(c.cut.words, head.v - v0);
            c.products.multiply(team, n, words, head.d, hidden_rows(head, n0), weight_rows(head, v0).turned(), c.logits,
                                words, false);
            if (rounded_dlogits(head)) {
                dlogits_rows<bf16>(team, c.a, n0, n, v0, words, c.logits);
            } else {
                dlogits_rows<float>(team, c.a, n0, n, v0, words, c.logits);
            }
            add_gradients(team, head, c.products, stored_dlogits(team, head, scales, n, words, c.logits), n0, n, v0,
                          words, dhidden, c.a.dweight, v0 == 0, n0 == 0);
        }
        if (dhidden != nullptr && head.type != kFp32) {
            void* to = const_cast<void*>(element(c.a.dhidden, n0 * head.d, head.type));
            round_rows(team, dhidden, n, head.d, power_of_two(-scales.of_hidden), head.type, to);
        }
    }
    if (c.a.dweight != nullptr) scale_share(team, c.a.dweight, head.v * head.d, -scales.of_weight);
}

inline int linear_logsumexp_backward(const LogsumexpBackwardArgs& args, int threads) {
    const HeadArgs& head = args.head;
    if (head.n == 0) {
        if (args.dweight != nullptr) memset(args.dweight, 0, static_cast<size_t>(head.v * head.d) * sizeof(float));
        return 0;
    }
    const Cut cut = cut_head(head, kOnlineTokens, kOnlineWords);
    const int64_t rounded = args.dhidden != nullptr && head.type != kFp32 ? round_up(cut.tokens * head.d, 64) : 0;
    const int64_t floats = rounded + cut.block_floats() + Products::floats(cut, head.d);
    float* memory = static_cast<float*>(workspace(static_cast<size_t>(floats) * sizeof(float)));
    if (memory == nullptr) return 1;
    const Products products{memory + rounded + cut.block_floats(), head.math, head.chunk};
    LogsumexpBackwardCall call{args, cut, products, memory + rounded, memory, {}};
    run_team(worthwhile(threads, head_nanoseconds(head, 3)), logsumexp_backward_team, &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
