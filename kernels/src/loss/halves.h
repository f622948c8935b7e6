// FP16 sums in chunks (gemm/fp16.h) for the loss's gradients: dlogits as FP16 operands.
//
// Softmax of a large vocabulary is mostly below FP16's smallest normal, and what is below it counts as zero there. So
// dlogits are stored times a power of two, one for each of their two products, the largest with which no chunk's sum
// can overflow; it is taken out of the FP32 sums again. With |dlogits| summed over a token's words at most 2^g,
// |hidden| below 2^h and |weight| below 2^w those are 15 - g - max(w, 0) and 15 - g - max(h + log2(chunk), 0).
#pragma once
#include "head.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// Exponents; 0 where sums are not in chunks.
struct Scales {
    int of_hidden = 0, of_weight = 0;
};

// Bits of the largest magnitudes that any thread has seen.
struct Largest {
    uint32_t hidden = 0, weight = 0, slope = 0;
};

// The largest half kept free of overflow, 2^15, with room for roundings upwards.
constexpr int kHalfRoom = 15, kMostScale = 100;

inline float power_of_two(int exponent) {
    const int32_t bits = (exponent + 127) << 23;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline void raise_to(uint32_t* most, uint32_t bits) {
    uint32_t seen = __atomic_load_n(most, __ATOMIC_RELAXED);
    while (seen < bits && !__atomic_compare_exchange_n(most, &seen, bits, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

// Every thread its share of the rows of a matrix of FP16.
inline void largest_half(const Team& team, const Matrix& x, int64_t rows, int64_t cols, uint32_t* most) {
    int64_t start, stop;
    team.split(rows, 1, &start, &stop);
    uint16_t seen = 0;
    for (int64_t i = start; i < stop; ++i) {
        const uint16_t* row = static_cast<const uint16_t*>(x.data) + i * x.rs;
        for (int64_t j = 0; j < cols; ++j) {
            const uint16_t magnitude = row[j * x.cs] & 0x7fff;
            seen = magnitude > seen ? magnitude : seen;
        }
    }
    raise_to(most, seen);
}

// Called by every thread of a team. dlse and dtarget are those of each token; null for cross-entropy, whose dlogits sum
// to less than 4 in magnitude while the z-loss's part, 2 z_loss lse, is below 2.
inline Scales gradient_scales(const Team& team, const HeadArgs& head, const float* dlse, const float* dtarget,
                              Largest* largest) {
    if (head.math != kFp16Chunk) return {};
    largest_half(team, hidden_rows(head, 0), head.n, head.d, &largest->hidden);
    largest_half(team, weight_rows(head, 0), head.v, head.d, &largest->weight);
    int64_t start, stop;
    team.split(dlse == nullptr ? 0 : head.n, 1, &start, &stop);
    for (int64_t i = start; i < stop; ++i) {
        const float slope = __builtin_fabsf(dlse[i]) + __builtin_fabsf(dtarget[i]);
        uint32_t bits;
        memcpy(&bits, &slope, sizeof bits);
        raise_to(&largest->slope, bits);
    }
    team.barrier();
    const auto half_exponent = [](uint32_t bits) { return static_cast<int>(bits >> 10) - 14; };
    const auto positive = [](int x) { return x > 0 ? x : 0; };
    const int g = dlse == nullptr ? 2 : static_cast<int>(largest->slope >> 23 & 255) - 126;
    const int h = half_exponent(largest->hidden), w = half_exponent(largest->weight);
    const int chunk = 31 - __builtin_clz(static_cast<unsigned>(head.chunk));
    const auto within = [](int x) { return x < -kMostScale ? -kMostScale : x > kMostScale ? kMostScale : x; };
    return {within(kHalfRoom - g - positive(w)), within(kHalfRoom - g - positive(h + chunk))};
}

// A block of dlogits as the operands of its two products.
struct Dlogits {
    Matrix of_hidden, of_weight;
};

constexpr int64_t kMostWords = 2048 + 3 * 128;

// Rows of FP32 dlogits become two of halves in their place, the second behind the first. Ends with a barrier.
inline void halve_rows(const Team& team, const Scales& scales, int64_t n, int64_t words, float* dlogits) {
    int64_t start, stop;
    team.split(n, 1, &start, &stop);
    const V of_hidden = V::set(power_of_two(scales.of_hidden)), of_weight = V::set(power_of_two(scales.of_weight));
    for (int64_t i = start; i < stop; ++i) {
        const float* row = dlogits + i * words;
        fp16* halves = reinterpret_cast<fp16*>(dlogits + i * words);
        fp16 second[kMostWords];
        for_vectors(words, [&](int64_t j, int lanes) {
            const V x = load_part(row + j, lanes);
            store_part(of_weight * x, second + j, lanes);
            store_part(of_hidden * x, halves + j, lanes);
        });
        memcpy(halves + words, second, static_cast<size_t>(words) * sizeof(fp16));
    }
    team.barrier();
}

// The operands that dlogits [n, words] in `at` are, in the type that they are stored in by then.
inline Dlogits stored_dlogits(const Team& team, const HeadArgs& head, const Scales& scales, int64_t n, int64_t words,
                              float* at) {
    if (head.math == kFp16Chunk) {
        halve_rows(team, scales, n, words, at);
        return {{at, 2 * words, 1, kFp16}, {reinterpret_cast<fp16*>(at) + words, 2 * words, 1, kFp16}};
    }
    const Matrix x = rounded_dlogits(head) ? Matrix{at, 2 * words, 1, kBf16} : Matrix{at, words, 1, kFp32};
    return {x, x};
}

// x[n] times 2^exponent; every thread its share.
inline void scale_share(const Team& team, float* x, int64_t n, int exponent) {
    if (exponent == 0) return;
    int64_t start, stop;
    team.split(n, V::N, &start, &stop);
    const V by = V::set(power_of_two(exponent));
    for_vectors(stop - start,
                [&](int64_t j, int lanes) { store_part(by * load_part(x + start + j, lanes), x + start + j, lanes); });
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
