// Softmax over a vocabulary that comes in blocks: a running maximum and sum (Milakov & Gimelshein, arXiv:1805.02867).
// A block's logits become exp(logit - shift) in place, the shift being the largest logit up to then, so every word's
// exponential is taken once; what it is off by, exp(shift - last shift) / total, is one factor a row and block.
#pragma once
#include "../../simd/math.h"
#include "head.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// Of each token of a chunk. Sums over blocks are FP64, so that they add no error to FP32's.
struct RowState {
    double* total;   // sum of exp(logit - shift) so far
    float* maximum;  // largest logit so far
    float* target;   // the target's logit, 0 without a target
    float* shifts;   // [blocks][tokens]: each block's shift
    int64_t tokens;

    static int64_t floats(const Cut& cut, int64_t blocks) { return (4 + blocks) * round_up(cut.tokens, 64); }
    static RowState at(float* memory, const Cut& cut) {
        const int64_t n = round_up(cut.tokens, 64);
        return {reinterpret_cast<double*>(memory), memory + 2 * n, memory + 3 * n, memory + 4 * n, n};
    }
    float shift(int64_t block, int64_t row) const { return shifts[block * tokens + row]; }
    // The log-sum-exp as an exact sum of two parts; the second keeps its digits where the logits are large.
    double lse(int64_t blocks, int64_t row) const {
        return static_cast<double>(shift(blocks - 1, row)) + __builtin_log(total[row]);
    }
};

inline float row_maximum(const float* row, int64_t words) {
    const V low = V::set(-__builtin_inff());
    V a = low, b = low, c = low, d = low;
    int64_t j = 0;
    for (; j + 4 * V::N <= words; j += 4 * V::N) {
        a = max(V::load(row + j), a), b = max(V::load(row + j + V::N), b);
        c = max(V::load(row + j + 2 * V::N), c), d = max(V::load(row + j + 3 * V::N), d);
    }
    for (; j + V::N <= words; j += V::N) a = max(V::load(row + j), a);
    if (j < words) {
        const int lanes = static_cast<int>(words - j);
        b = max(first_n(V::load_n(row + j, lanes), lanes, -__builtin_inff()), b);
    }
    return max_lane(max(max(a, b), max(c, d)));
}

// Takes in a block's logits [n, words] (side by side), from column v0 on; every thread its share of the rows.
// `keep`: leave the exponentials in their place.
inline void take_block(const Team& team, const RowState& state, const int64_t* targets, int64_t n, int64_t block,
                       int64_t v0, int64_t words, float* logits, bool keep) {
    int64_t start, stop;
    team.split(n, 1, &start, &stop);
    for (int64_t i = start; i < stop; ++i) {
        float* row = logits + i * words;
        const int64_t target = targets[i] - v0;
        if (block == 0) state.target[i] = 0.0f;
        if (target >= 0 && target < words) state.target[i] = row[target];
        const float before = block == 0 ? -__builtin_inff() : state.maximum[i], here = row_maximum(row, words);
        const float maximum = here > before ? here : before;
        // An infinite one would make NaN of what is infinite or 0.
        const float shift = __builtin_isfinite(maximum) ? maximum : 0.0f;
        const V by = V::set(shift);
        const float added = sum_of(words, [&](int64_t j, int lanes, V s) {
            const V e = exp(load_part(row + j, lanes) - by);
            if (keep) store_part(e, row + j, lanes);
            return s + (lanes == V::N ? e : first_n(e, lanes, 0.0f));
        });
        state.total[i] =
            block == 0 ? static_cast<double>(added)
                       : state.total[i] * __builtin_exp(static_cast<double>(state.shift(block - 1, i)) - shift) + added;
        state.maximum[i] = maximum;
        state.shifts[block * state.tokens + i] = shift;
    }
}

// Turns a kept block into dlogits, in place: each row's factor times its exponentials, minus the target's one; zeroes
// for a token without a target. `factors` are right for the last block. T is the type they are stored in; rows stay
// `words` floats apart. Ends with a barrier.
template <class T>
inline void dlogits_block(const Team& team, const RowState& state, const int64_t* targets, const float* factors,
                          int64_t n, int64_t v, int64_t block, int64_t blocks, int64_t v0, int64_t words, float* kept) {
    int64_t start, stop;
    team.split(n, 1, &start, &stop);
    for (int64_t i = start; i < stop; ++i) {
        const float* row = kept + i * words;
        T* out = reinterpret_cast<T*>(kept + i * words);
        if (targets[i] < 0 || targets[i] >= v) {
            memset(out, 0, static_cast<size_t>(words) * sizeof(T));
            continue;
        }
        const double late = static_cast<double>(state.shift(block, i)) - state.shift(blocks - 1, i);
        const float factor = factors[i] * static_cast<float>(__builtin_exp(late));
        const int64_t target = targets[i] - v0;
        const bool here = target >= 0 && target < words;
        const float at_target = here ? factor * row[target] - 1.0f : 0.0f;
        const V by = V::set(factor);
        for_vectors(words, [&](int64_t j, int lanes) { store_part(by * load_part(row + j, lanes), out + j, lanes); });
        if (here) out[target] = from_float<T>(at_target);
    }
    team.barrier();
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
