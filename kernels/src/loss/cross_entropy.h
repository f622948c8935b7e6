// Linear + cross-entropy with the gradients made in forward: a chunk of tokens' logits over the whole vocabulary are
// made once, kept as exponentials (softmax.h), and become dlogits block by block, each used for both gradients while it
// is in cache. Exactly three products; the chunk is as large as kChunkBytes allow, whatever the number of tokens.
//
//            forward, block by block                 backward, block by block
//   tokens   [ e0 | e1 | e2 | ... ]   total, shifts  [ dlogits1 ] -> dhidden[tokens] += dlogits1 weight[words]
//            hidden weight^T -> exp                              -> dweight[words]  += dlogits1^T hidden[tokens]
#pragma once
#include "logsumexp.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

constexpr int64_t kChunkBytes = int64_t{96} << 20, kChunkWords = 2048;

struct CrossEntropyCall {
    CrossEntropyArgs a;
    Cut cut;
    Products products;
    RowState state;
    float *kept, *factors, *dhidden;
    double* losses;  // of each token of a chunk: the loss, then the squared log-sum-exp
    Largest largest;
};

// Losses of this thread's rows, and the factor in dlogits of a row's last exponentials, (1 + 2 z_loss lse) / total.
inline void finish_rows(const Team& team, const CrossEntropyCall& c, int64_t n0, int64_t n) {
    const int64_t blocks = c.cut.blocks(c.a.head.v);
    int64_t start, stop;
    team.split(n, 1, &start, &stop);  // the same rows as in take_block: no barrier needed
    for (int64_t i = start; i < stop; ++i) {
        const int64_t target = c.a.head.targets[n0 + i];
        const bool counts = target >= 0 && target < c.a.head.v;
        const double lse = c.state.lse(blocks, i), shift = c.state.shift(blocks - 1, i);
        c.losses[i] = counts ? shift - c.state.target[i] + __builtin_log(c.state.total[i]) : 0.0;
        c.losses[c.cut.tokens + i] = counts ? lse * lse : 0.0;
        const V factor = V::set(static_cast<float>(1.0 + 2.0 * c.a.z_loss * lse));
        (factor / V::set(static_cast<float>(c.state.total[i]))).store_n(c.factors + i, 1);
    }
}

inline void sum_losses(CrossEntropyCall& c, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        c.a.sums[0] += c.losses[i];
        c.a.sums[1] += c.losses[c.cut.tokens + i];
    }
}

template <class T>
inline void chunk_gradients(const Team& team, const CrossEntropyCall& c, const Scales& scales, int64_t n0, int64_t n,
                            bool first) {
    const HeadArgs& head = c.a.head;
    const int64_t blocks = c.cut.blocks(head.v);
    float* dhidden = dhidden_sums(head, c.a.dhidden, c.dhidden, n0);
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t v0 = block * c.cut.words, words = least(c.cut.words, head.v - v0);
        float* kept = c.kept + block * c.cut.block_floats();
        dlogits_block<T>(team, c.state, head.targets + n0, c.factors, n, head.v, block, blocks, v0, words, kept);
        add_gradients(team, head, c.products, stored_dlogits(team, head, scales, n, words, kept), n0, n, v0, words,
                      dhidden, c.a.dweight, block == 0, first);
    }
    if (dhidden != nullptr && head.type != kFp32) {
        round_rows(team, dhidden, n, head.d, power_of_two(-scales.of_hidden), head.type,
                   const_cast<void*>(element(c.a.dhidden, n0 * head.d, head.type)));
    }
}

inline void zero_share(const Team& team, void* to, int64_t bytes) {
    int64_t start, stop;
    team.split(bytes, 256, &start, &stop);
    memset(static_cast<char*>(to) + start, 0, static_cast<size_t>(stop - start));
}

inline void cross_entropy_team(const Team& team, void* context) {
    CrossEntropyCall& c = *static_cast<CrossEntropyCall*>(context);
    const HeadArgs& head = c.a.head;
    const bool gradients = c.a.dhidden != nullptr || c.a.dweight != nullptr;
    const int64_t size = head.type == kFp32 ? 4 : 2;
    Scales scales;
    if (gradients) scales = gradient_scales(team, head, nullptr, nullptr, &c.largest);
    bool first = true;  // alike in every thread
    for (int64_t n0 = 0; n0 < head.n; n0 += c.cut.tokens) {
        const int64_t n = least(c.cut.tokens, head.n - n0);
        bool any = false;
        for (int64_t i = n0; i < n0 + n && !any; ++i) any = head.targets[i] >= 0 && head.targets[i] < head.v;
        if (!any) {
            if (c.a.dhidden != nullptr) {
                zero_share(team, const_cast<void*>(element(c.a.dhidden, n0 * head.d, head.type)), n * head.d * size);
            }
            continue;
        }
        take_tokens(team, head, c.cut, c.products, c.state, c.kept, n0, n, gradients);
        finish_rows(team, c, n0, n);
        team.barrier();
        if (team.id == 0) sum_losses(c, n);
        if (gradients && rounded_dlogits(head)) {
            chunk_gradients<bf16>(team, c, scales, n0, n, first);
        } else if (gradients) {
            chunk_gradients<float>(team, c, scales, n0, n, first);
        }
        first = false;
        team.barrier();
    }
    if (c.a.dweight == nullptr) return;
    if (first) return zero_share(team, c.a.dweight, head.v * head.d * 4);
    scale_share(team, c.a.dweight, head.v * head.d, -scales.of_weight);
}

inline int linear_cross_entropy(CrossEntropyArgs& args, int threads) {
    const HeadArgs& head = args.head;
    args.sums[0] = args.sums[1] = 0.0;
    const bool gradients = args.dhidden != nullptr || args.dweight != nullptr;
    if (head.n == 0) {
        if (args.dweight != nullptr) memset(args.dweight, 0, static_cast<size_t>(head.v * head.d) * sizeof(float));
        return 0;
    }
    const int64_t fit = kChunkBytes / (4 * head.v);
    const Cut cut =
        gradients ? cut_head(head, fit > 16 ? fit : 16, kChunkWords) : cut_head(head, kOnlineTokens, kOnlineWords);
    const int64_t blocks = cut.blocks(head.v), row = round_up(cut.tokens, 64);
    const int64_t rounded = args.dhidden != nullptr && head.type != kFp32 ? round_up(cut.tokens * head.d, 64) : 0;
    const int64_t rows = RowState::floats(cut, blocks), kept = (gradients ? blocks : 1) * cut.block_floats();
    const int64_t floats = rows + 5 * row + rounded + kept + Products::floats(cut, head.d);
    float* memory = static_cast<float*>(workspace(static_cast<size_t>(floats) * sizeof(float)));
    if (memory == nullptr) return 1;
    const Products products{nullptr, head.math, head.chunk};
    CrossEntropyCall call{args, cut, products, RowState::at(memory, cut), nullptr, nullptr, nullptr, nullptr, {}};
    call.losses = reinterpret_cast<double*>(memory += rows);
    call.factors = memory += 4 * row;
    call.dhidden = memory += row;
    call.kept = memory += rounded;
    call.products.memory = memory + kept;
    run_team(worthwhile(threads, head_nanoseconds(head, gradients ? 3 : 1)), cross_entropy_team, &call);
    args.sums[0] = call.a.sums[0];
    args.sums[1] = args.z_loss * call.a.sums[1];
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
