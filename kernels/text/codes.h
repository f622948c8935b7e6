// A text as the kernels take it: an array of code points, without a surrogate among them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace jpllm::text {

using Code = std::uint32_t;

struct Codes {
    const Code* at;
    std::size_t size;

    Code operator[](std::size_t i) const { return at[i]; }
    const Code* begin() const { return at; }
    const Code* end() const { return at + size; }
    Codes part(std::size_t first, std::size_t last) const { return {at + first, last - first}; }
};

}  // namespace jpllm::text
