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
