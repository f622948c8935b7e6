// Whether outputs are too large for the caches to be of use to whoever reads them next. For api.cpp files.
#pragma once
#include <stdint.h>
#include <unistd.h>

#include <atomic>

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

}  // namespace jpllm
