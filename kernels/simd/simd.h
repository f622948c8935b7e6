// Picks the vector type of the instruction set this unit is compiled for. Every type has the same names:
//
//   V::N                              lanes (FP32)
//   V::zero() set(x) load(p) store(p) any alignment of a float
//   V::load_n(p, n) x.store_n(p, n)   the first n of N lanes, 0 <= n <= N; the others read as 0
//                                     p: float, bf16 or fp16; stores round to nearest, ties to even, NaN stays NaN
//   x.stream(p)                       as store, past the caches on x86; p is aligned to N elements, and stream_end()
//                                     comes before another thread reads
//   load_mixed(p, x, y) store_mixed(p, x, y) stream_mixed(p, x, y)
//                                     2 N elements, 16-bit ones in whatever order over x and y is cheapest, the same
//                                     in all three
//   store_two(p, x, y) stream_two(p, x, y)
//                                     x, then y; streams are of p aligned to 2 N 16-bit elements, or N floats
//   zero_lines(p, bytes)              SVE: the whole cache lines of p .. p + bytes are zero, without having been read
//   + - * / fma(a,b,c)=ab+c fnma(a,b,c)=c-ab sqrt round(nearest) scale2(x,n)=x*2^n (n whole)
//   max(a, b) min(a, b)               give b where either is NaN (SVE: NaN)
//   first_n(x, n, fill)               x in the first n lanes, fill in the others
//   sum(x) max_lane(x)                across the lanes, a fixed order
//   x.store_halves(low, high)         the first N / 2 lanes and the others
//   transpose(V (&)[N])               an N x N block
//   load_transposed(V (&r)[N], p, s)  r[l] = elements p[i * s + l], i < N
//   Tuning                            of the matrix product: tile, blocks, the most rows and columns of a panel, bytes
//   of B
//                                     to prefetch ahead, floats of a cache line
//
// Everything is in an unnamed namespace inside the instruction set's own: no function compiled for one set may be
// merged by the linker with another's. For the same reason these units include no C++ library header.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#define JPLLM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define JPLLM_UNROLL _Pragma("GCC unroll 64")
#endif
#define JPLLM_INLINE inline __attribute__((always_inline))
// x86 gains from inner loops unrolled; on SVE, GCC makes chains of MOVPRFX of them.
#if !defined(__x86_64__)
#define JPLLM_UNROLL_X86
#elif defined(__clang__)
#define JPLLM_UNROLL_X86 _Pragma("clang loop unroll_count(4)")
#else
#define JPLLM_UNROLL_X86 _Pragma("GCC unroll 4")
#endif

namespace jpllm {

// Storage types: memory holds them, arithmetic is FP32.
struct bf16 {
    uint16_t bits;
};
struct fp16 {
    uint16_t bits;
};

}  // namespace jpllm

#if defined(JPLLM_UNIT_AVX512BF16)
#define JPLLM_ISA_NAME avx512bf16
#include "avx512bf16.h"
#elif defined(JPLLM_UNIT_AVX512)
#define JPLLM_ISA_NAME avx512
#include "avx512.h"
#elif defined(JPLLM_UNIT_AVX2)
#define JPLLM_ISA_NAME avx2
#include "avx2.h"
#elif defined(JPLLM_UNIT_SVE512)
#define JPLLM_ISA_NAME sve512
#include "sve.h"
#elif defined(JPLLM_UNIT_SVE256)
#define JPLLM_ISA_NAME sve256
#include "sve.h"
#else
#define JPLLM_ISA_NAME scalar
#include "scalar.h"
#endif

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// The storage type behind a pointer.
template <class P>
struct Storage;
template <class T>
struct Storage<const T*> {
    using type = T;
};

// Where an instruction set has nothing better for a type.
template <class T>
JPLLM_INLINE void store_two(T* p, V x, V y) {
    x.store(p), y.store(p + V::N);
}
template <class T>
JPLLM_INLINE void stream_two(T* p, V x, V y) {
    x.stream(p), y.stream(p + V::N);
}
template <class T>
JPLLM_INLINE void load_mixed(const T* p, V& x, V& y) {
    x = V::load(p), y = V::load(p + V::N);
}
template <class T>
JPLLM_INLINE void store_mixed(T* p, V x, V y) {
    store_two(p, x, y);
}
template <class T>
JPLLM_INLINE void stream_mixed(T* p, V x, V y) {
    stream_two(p, x, y);
}

inline void prefetch(const void* p) { __builtin_prefetch(p); }
inline void prefetch_to_write(const void* p) { __builtin_prefetch(p, 1); }

template <class T>
inline void load_transposed(V (&r)[V::N], const T* p, int64_t stride) {
    JPLLM_UNROLL for (int i = 0; i < V::N; ++i)
        r[i] = V::load(p + i * stride);
    transpose(r);
}

// One element from any storage type and to it.
template <class T>
inline float to_float(T x) {
    return sum(V::load_n(&x, 1));
}
inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
    const uint32_t bits = uint32_t{x.bits} << 16;
    float r;
    memcpy(&r, &bits, sizeof r);
    return r;
}
#if defined(__ARM_FEATURE_SVE)
// A sum across lanes, as above, takes an A64FX 64 cycles.
inline float to_float(fp16 x) {
    __fp16 half;
    memcpy(&half, &x.bits, sizeof half);
    return half;
}
#endif
template <class T>
inline T from_float(float x) {
    T r;
    V::set(x).store_n(&r, 1);
    return r;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
