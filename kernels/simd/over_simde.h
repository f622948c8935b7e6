// For tests only: AVX-512's intrinsics in terms of narrower ones (SIMDe, and here what Debian's lacks), so that a CPU
// without AVX-512 proves the results of the AVX-512 units. Slow, and nothing to do with their speed.
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#include <string.h>

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {
namespace over_simde {

template <class T, class Vector>
struct Lanes {
    static constexpr int count = sizeof(Vector) / sizeof(T);
    T lane[count];
    Lanes() { memset(lane, 0, sizeof lane); }
    Lanes(Vector x) { memcpy(lane, &x, sizeof lane); }
    operator Vector() const {
        Vector x;
        memcpy(&x, lane, sizeof x);
        return x;
    }
};
using F16 = Lanes<float, __m512>;
using I16 = Lanes<int32_t, __m512i>;
using H16 = Lanes<uint16_t, __m256i>;
using H32 = Lanes<uint16_t, __m512i>;

// The lanes of the mask from memory, zeroes in the others.
template <class L, class Mask, class T>
inline L load(Mask mask, const T* p) {
    L r;
    for (int i = 0; i < L::count; ++i) {
        if (mask >> i & 1)
            memcpy(&r.lane[i], reinterpret_cast<const char*>(p) + sizeof(r.lane[0]) * i, sizeof r.lane[0]);
    }
    return r;
}
template <class L, class Mask, class T>
inline void store(T* p, Mask mask, L x) {
    for (int i = 0; i < L::count; ++i) {
        if (mask >> i & 1) memcpy(reinterpret_cast<char*>(p) + sizeof(x.lane[0]) * i, &x.lane[i], sizeof x.lane[0]);
    }
}
inline __m512 halves_to_floats(__m256i x) {
    __m256 part[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
    __m512 r;
    memcpy(&r, part, sizeof r);
    return r;
}
inline __m256i floats_to_halves(__m512 x) {
    __m256 part[2];
    memcpy(part, &x, sizeof part);
    return _mm256_set_m128i(_mm256_cvtps_ph(part[1], 0), _mm256_cvtps_ph(part[0], 0));
}
inline __m512i widen(H16 x) {
    I16 r;
    for (int i = 0; i < 16; ++i) r.lane[i] = x.lane[i];
    return r;
}
inline __m256i narrow(I16 x) {
    H16 r;
    for (int i = 0; i < 16; ++i) r.lane[i] = static_cast<uint16_t>(x.lane[i]);
    return r;
}
// VDPBF16PS and VCVTNE2PS2BF16 as the manual has them (avx512bf16.h).
inline float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x; }
inline float wide(uint32_t bits) {
    float r;
    memcpy(&r, &bits, sizeof r);
    return flushed(r);
}
template <class Pairs>
inline __m512 dot_pairs(F16 sum, Pairs first, Pairs second) {
    I16 a, b;
    memcpy(a.lane, &first, sizeof a.lane), memcpy(b.lane, &second, sizeof b.lane);
    for (int i = 0; i < 16; ++i) {
        const uint32_t x = static_cast<uint32_t>(a.lane[i]), y = static_cast<uint32_t>(b.lane[i]);
        float s = flushed(sum.lane[i]);
        s = flushed(__builtin_fmaf(wide(x & 0xffff0000u), wide(y & 0xffff0000u), s));
        sum.lane[i] = flushed(__builtin_fmaf(wide(x << 16), wide(y << 16), s));
    }
    return sum;
}
inline uint16_t rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40u);
    if (__builtin_fabsf(x) < 0x1p-126f) return static_cast<uint16_t>(bits >> 16 & 0x8000u);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline __m512i round_both(F16 high, F16 low) {
    H32 r;
    for (int i = 0; i < 16; ++i) r.lane[i] = rounded(low.lane[i]), r.lane[16 + i] = rounded(high.lane[i]);
    return r;
}
inline void stream(float* p, __m512 x) { memcpy(p, &x, sizeof x); }
// The hardware's order: the halves of the vector, then those of the half, and so on.
inline float sum(F16 x) {
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; ++i) x.lane[i] += x.lane[i + half];
    }
    return x.lane[0];
}
inline float largest(F16 x) {
    float r = x.lane[0];
    for (float lane : x.lane) r = lane > r ? lane : r;
    return r;
}
inline __m512 shuffle_quarters(F16 a, F16 b, int control) {
    F16 r;
    for (int quarter = 0; quarter < 4; ++quarter) {
        const F16& from = quarter < 2 ? a : b;
        memcpy(r.lane + 4 * quarter, from.lane + 4 * (control >> (2 * quarter) & 3), 4 * sizeof(float));
    }
    return r;
}

}  // namespace over_simde
}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm

#define _mm512_maskz_loadu_ps(mask, p) static_cast<__m512>(over_simde::load<over_simde::F16>(mask, p))
#define _mm512_mask_storeu_ps(p, mask, x) over_simde::store<over_simde::F16>(p, mask, x)
#define _mm512_maskz_loadu_epi32(mask, p) static_cast<__m512i>(over_simde::load<over_simde::I16>(mask, p))
#define _mm512_mask_storeu_epi32(p, mask, x) over_simde::store<over_simde::I16>(p, mask, x)
#define _mm512_maskz_loadu_epi16(mask, p) static_cast<__m512i>(over_simde::load<over_simde::H32>(mask, p))
#define _mm512_mask_storeu_epi16(p, mask, x) over_simde::store<over_simde::H32>(p, mask, x)
#define _mm256_maskz_loadu_epi16(mask, p) static_cast<__m256i>(over_simde::load<over_simde::H16>(mask, p))
#define _mm256_mask_storeu_epi16(p, mask, x) over_simde::store<over_simde::H16>(p, mask, x)
#define _mm512_stream_ps over_simde::stream
#define _mm512_cvtph_ps over_simde::halves_to_floats
#define _mm512_cvtps_ph(x, rounding) over_simde::floats_to_halves(x)
#define _mm512_cvtepu16_epi32 over_simde::widen
#define _mm512_cvtepi32_epi16 over_simde::narrow
#define _mm512_reduce_add_ps over_simde::sum
#define _mm512_reduce_max_ps over_simde::largest
#define _mm512_shuffle_f32x4 over_simde::shuffle_quarters
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps over_simde::dot_pairs
#define _mm512_cvtne2ps_pbh over_simde::round_both
