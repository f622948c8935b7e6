// Windows of a text chosen by their content, so that two copies of a passage choose the same ones.
//
// Winnowing (S. Schleimer, D. Wilkerson, A. Aiken, "Winnowing: Local Algorithms for Document Fingerprinting", 2003): of
// any w windows of k codes that follow one another the one with the least hash is chosen, the first of equal ones. A
// passage of k + w - 1 codes that stands in two places therefore has a chosen window in both, at the same offset.
// The hash is that of R. Karp and M. Rabin (1987): a polynomial mod 2^61 - 1, mixed.
#pragma once
#include <cstdint>
#include <vector>

#include "text/codes.h"

namespace jpllm::text {

struct Windows {
    std::vector<std::uint64_t> hashes;
    std::vector<std::uint32_t> positions;  // of the window's first code; ascending
};

// Appends the chosen windows of a text; a text of fewer than k + w - 1 codes has none.
void windows(Codes text, std::size_t k, std::size_t w, std::vector<std::uint64_t>& work, Windows& out);

}  // namespace jpllm::text
