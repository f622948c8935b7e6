// Windows of a text chosen by their content.
#include "text/windows.h"

#include "text/rolling.h"

namespace jpllm::text {
namespace {

constexpr std::uint64_t kPrime = (std::uint64_t{1} << 61) - 1;
constexpr std::uint64_t kBase = 0x0f3a5c7e91b2d64bULL;  // below the prime, otherwise of no structure

// a b mod 2^61 - 1 for a, b below it, of 32-bit halves: not every compiler has 128-bit integers.
inline std::uint64_t times(std::uint64_t a, std::uint64_t b) {
    const std::uint64_t a1 = a >> 32, a0 = a & 0xffffffffU, b1 = b >> 32, b0 = b & 0xffffffffU;
    const std::uint64_t middle = a1 * b0 + a0 * b1;                   // below 2^62, as a1 and b1 are below 2^29
    const std::uint64_t high = a1 * b1 + (middle >> 32);              // times 2^64, that is 2^3
    const std::uint64_t low = a0 * b0, carry = low + (middle << 32);  // mod 2^64
    const std::uint64_t top = high + (carry < low ? 1 : 0);           // below 2^59
    const std::uint64_t sum = (top << 3) + (carry >> 61) + (carry & kPrime);
    const std::uint64_t once = (sum & kPrime) + (sum >> 61);
    return once >= kPrime ? once - kPrime : once;
}

inline std::uint64_t plus(std::uint64_t a, std::uint64_t b) {
    const std::uint64_t sum = a + b;
    return sum >= kPrime ? sum - kPrime : sum;
}

}  // namespace

void windows(Codes text, std::size_t k, std::size_t w, std::vector<std::uint64_t>& work, Windows& out) {
    if (text.size < k + w - 1) return;
    const std::size_t count = text.size - k + 1;
    if (work.size() < count) work.resize(count);
    std::uint64_t h = 0, leaving = 1;
    for (std::size_t i = 0; i < k; ++i) {
        h = plus(times(h, kBase), std::uint64_t{text[i]} + 1);
        leaving = times(leaving, kBase);
    }
    work[0] = mix(h);
    for (std::size_t i = 1; i < count; ++i) {
        const std::uint64_t gone = times(leaving, std::uint64_t{text[i - 1]} + 1);
        h = plus(plus(times(h, kBase), std::uint64_t{text[i + k - 1]} + 1), kPrime - gone);
        work[i] = mix(h);
    }
    std::size_t least = count, chosen = count;  // the least of the w hashes that end at i; count: none yet
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t start = i + 1 < w ? 0 : i + 1 - w;
        if (least == count || work[i] < work[least]) least = i;
        if (least < start) {
            least = start;
            for (std::size_t j = start + 1; j <= i; ++j) {
                if (work[j] < work[least]) least = j;
            }
        }
        if (i + 1 >= w && least != chosen) {
            chosen = least;
            out.hashes.push_back(work[least]);
            out.positions.push_back(static_cast<std::uint32_t>(least));
        }
    }
}

}  // namespace jpllm::text
