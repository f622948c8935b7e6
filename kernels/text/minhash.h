// MinHash signatures of texts, and the hashes of their n-grams.
//
// A gram of n codes c_1 .. c_n is hashed in one pass as the polynomial sum of (c_i + 1) M^(n-i) mod 2^64, and mixed by
// the finalizer of MurmurHash3. A text of fewer than n codes has one gram, all of it; an empty one has none.
//
// Hash function j of a gram is a_j x + b_j mod 2^32 with x the upper 32 bits of its hash and a_j odd: a permutation of
// the 32-bit numbers, so that no two grams meet in it (A. Z. Broder, M. Charikar, A. M. Frieze, M. Mitzenmacher,
// "Min-Wise Independent Permutations", 2000, section 3 on linear ones). Of the grams the least value stays.
#pragma once
#include <cstdint>
#include <vector>

#include "text/codes.h"

namespace jpllm::text {

// Appends the mixed 64-bit hashes of all grams of a text, in their order.
void gram_hashes(Codes text, std::size_t n, std::vector<std::uint64_t>& out);

// Lowers low[j] to the least value of function j over `count` grams x, for `functions` functions.
using Lower = void (*)(const std::uint32_t* x, std::size_t count, const std::uint32_t* a, const std::uint32_t* b,
                       std::size_t functions, std::uint32_t* low);

// The loop compiled for an instruction set, by name; nullptr for one that this build or this CPU lacks. "": the best.
Lower lower_for(const char* isa);

// The names of those that run here, best first, ended by nullptr.
const char* const* lower_isas();

// The signature of one text into low[functions]; all ones for a text without grams. `x` is work space.
void minhash(Codes text, std::size_t n, const std::uint32_t* a, const std::uint32_t* b, std::size_t functions,
             Lower lower, std::vector<std::uint32_t>& x, std::uint32_t* low);

}  // namespace jpllm::text
