// The rolling hash of n-grams: a polynomial mod 2^64 in the codes, and the mixing that makes its bits usable.
#pragma once
#include <cstdint>

#include "text/codes.h"

namespace jpllm::text {

// The finalizer of MurmurHash3 (A. Appleby, public domain): a bijection of the 64-bit numbers.
inline std::uint64_t mix(std::uint64_t h) {
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdULL;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53ULL;
    h ^= h >> 33;
    return h;
}

constexpr std::uint64_t kGramFactor = 0x9e3779b97f4a7c15ULL;  // odd, of no structure: 2^64 by the golden ratio

// Calls use(mixed hash) for every gram in order. +1: a NUL is not nothing.
template <class Use>
void each_gram(Codes text, std::size_t n, Use use) {
    const std::size_t first = text.size < n ? text.size : n;
    if (first == 0) return;
    std::uint64_t h = 0, leaving = 1;  // the factor of the code that leaves: kGramFactor^n
    for (std::size_t i = 0; i < first; ++i) {
        h = h * kGramFactor + text[i] + 1;
        leaving *= kGramFactor;
    }
    use(mix(h));
    for (std::size_t i = n; i < text.size; ++i) {
        h = h * kGramFactor + text[i] + 1 - leaving * (std::uint64_t{text[i - n]} + 1);
        use(mix(h));
    }
}

}  // namespace jpllm::text
