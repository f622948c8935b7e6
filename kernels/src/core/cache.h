// Whether outputs are too large for the caches to be of use to whoever reads them next. For api.cpp files.
#pragma once
#include <stdint.h>
#include <unistd.h>

#include <atomic>
#include <initializer_list>

#include "matrix.h"

namespace jpllm {

// Bytes of the last level of cache; where the system does not say, 8 MiB (a CMG of A64FX).
inline int64_t last_level_cache() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
    const long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE), l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (l3 > 0) return l3;
    if (l2 > 0) return l2;
#endif
    return int64_t{8} << 20;
}

// Outputs of at least so many bytes go past the caches; see jpllm_set_past_caches.
inline std::atomic<int64_t>& past_caches_from() {
    static std::atomic<int64_t> bytes{last_level_cache()};
    return bytes;
}

// The memory of a matrix; a reader's rows may overlap, or go backwards.
struct Range {
    uintptr_t start, stop;
};
inline Range range(const void* data, int64_t m, int64_t n, int64_t stride, size_t element) {
    if (data == nullptr || m <= 0 || n <= 0) return {0, 0};
    const int64_t last = (m - 1) * stride, size = static_cast<int64_t>(element);
    const uintptr_t at = reinterpret_cast<uintptr_t>(data);
    return {at + static_cast<uintptr_t>((last < 0 ? last : 0) * size),
            at + static_cast<uintptr_t>(((last > 0 ? last : 0) + n) * size)};
}

// Whether `bytes` of outputs are worth writing past the caches: none of them is read from.
inline bool past_caches(int64_t bytes, std::initializer_list<Range> outputs, std::initializer_list<Range> inputs) {
    if (bytes < past_caches_from().load(std::memory_order_relaxed)) return false;
    for (const Range& out : outputs) {
        for (const Range& in : inputs) {
            if (out.start < in.stop && in.start < out.stop) return false;
        }
    }
    return true;
}

// One matrix [M, N] of an operation.
struct Shape {
    int64_t m, n;
    size_t element;
    Range of(In a) const { return range(a.data, m, n, a.stride, element); }
    Range of(Out a) const { return range(a.data, m, n, a.stride, element); }
    int64_t bytes() const { return m * n * static_cast<int64_t>(element); }
};

}  // namespace jpllm
