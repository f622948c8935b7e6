// The loop of MinHash, written once for the compiler to make vectors of: compiled once an instruction set, each time
// with its flags and within a namespace of its own.
#pragma once
#include <cstddef>
#include <cstdint>

// Grams come in multiples of this (the caller repeats the last one), so that no loop has a remainder.
#define JPLLM_TEXT_GRAMS 32

namespace {

inline std::uint32_t least(std::uint32_t p, std::uint32_t q) { return p < q ? p : q; }

// Four functions at a time share the loads of x; the lanes are grams, so that a vector of any length is filled.
void lower_loop(const std::uint32_t* x, std::size_t count, const std::uint32_t* a, const std::uint32_t* b,
                std::size_t functions, std::uint32_t* low) {
    constexpr std::size_t kBlock = 4096;  // grams: 16 KiB stay in the first cache while all functions pass over them
    for (std::size_t start = 0; start < count; start += kBlock) {
        const std::uint32_t* const block = x + start;
        const std::size_t size =
            (count - start < kBlock ? count - start : kBlock) / JPLLM_TEXT_GRAMS * JPLLM_TEXT_GRAMS;
        std::size_t j = 0;
        for (; j + 4 <= functions; j += 4) {
            const std::uint32_t a0 = a[j], a1 = a[j + 1], a2 = a[j + 2], a3 = a[j + 3];
            const std::uint32_t b0 = b[j], b1 = b[j + 1], b2 = b[j + 2], b3 = b[j + 3];
            std::uint32_t l0 = low[j], l1 = low[j + 1], l2 = low[j + 2], l3 = low[j + 3];
            for (std::size_t i = 0; i < size; ++i) {
                l0 = least(l0, a0 * block[i] + b0);
                l1 = least(l1, a1 * block[i] + b1);
                l2 = least(l2, a2 * block[i] + b2);
                l3 = least(l3, a3 * block[i] + b3);
            }
            low[j] = l0;
            low[j + 1] = l1;
            low[j + 2] = l2;
            low[j + 3] = l3;
        }
        for (; j < functions; ++j) {
            std::uint32_t l = low[j];
            for (std::size_t i = 0; i < size; ++i) l = least(l, a[j] * block[i] + b[j]);
            low[j] = l;
        }
    }
}

}  // namespace
