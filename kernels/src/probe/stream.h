// Memory bandwidth as STREAM measures it (McCalpin, 1995): copy and triad over arrays far larger than the caches.
#pragma once
#include "../core/rows.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// A store that need not read the line it fills: past the caches on x86. p is aligned to a vector.
#if defined(JPLLM_UNIT_AVX2)
constexpr bool kHasPastCaches = true;
inline void store_past(V x, float* p) { _mm256_stream_ps(p, x.v); }
inline void fence() { _mm_sfence(); }
#elif (defined(JPLLM_UNIT_AVX512) || defined(JPLLM_UNIT_AVX512BF16)) && !defined(JPLLM_SIMDE)
constexpr bool kHasPastCaches = true;
inline void store_past(V x, float* p) { _mm512_stream_ps(p, x.v); }
inline void fence() { _mm_sfence(); }
#else
constexpr bool kHasPastCaches = false;
inline void store_past(V x, float* p) { x.store(p); }
inline void fence() {}
#endif

template <class Value>
inline void stream(const StreamArgs& s, Value value) {
    constexpr int lines = 4;
    int64_t i = 0;
    if (s.past_caches) {
        for (; i + lines * V::N <= s.n; i += lines * V::N) {
            JPLLM_UNROLL for (int j = 0; j < lines; ++j)
                store_past(value(i + j * V::N, V::N), s.c + i + j * V::N);
        }
        fence();
    } else {
        for (; i + lines * V::N <= s.n; i += lines * V::N) {
            JPLLM_UNROLL for (int j = 0; j < lines; ++j)
                value(i + j * V::N, V::N).store(s.c + i + j * V::N);
        }
    }
    for (; i < s.n; i += V::N) {
        const int lanes = static_cast<int>(least(V::N, s.n - i));
        store_part(value(i, lanes), s.c + i, lanes);
    }
}

inline void stream_copy(const StreamArgs& s) {
    stream(s, [&](int64_t i, int lanes) { return load_part(s.a + i, lanes); });
}

inline void stream_triad(const StreamArgs& s) {
    const V scale = V::set(3.0f);
    stream(s, [&](int64_t i, int lanes) { return fma(scale, load_part(s.b + i, lanes), load_part(s.a + i, lanes)); });
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
