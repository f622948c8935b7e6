// Pairs of BF16 and their dot product (AVX512_BF16), beside the vector type of avx512.h. A vector of pairs is a V whose
// 32-bit lanes hold two BF16 each, the first in the low half: loads, stores, broadcasts and transposes move it as they
// move FP32.
//
//   dot(a, b, sum)          lane by lane: sum + a.high * b.high, then + a.low * b.low
//   round_pairs(low, high)  (low[l], high[l]) rounded to BF16, NaN stays NaN
//   load_line(p, n)         the pairs (p[0], p[1]), (p[2], p[3]), ..., n of 2 V::N elements, zeroes behind them
//   load_pairs(a, b, n)     (a[l], b[l]) for the first n lanes, zeroes in the others; no b is zeroes
//   store_halves(x, a, b)   the low half of x's bits to a, the high half to b
//   round_halves(low, high) the low vector rounded in the low half, the high one in the high half; in_turn() of it is
//                           round_pairs
//   exp2_short(x)           2^x within 1e-6 of it for x <= 1, for what is rounded to BF16 or summed; 0 up to -127, and
//                           between -127 and -126 some denormal; NaN stays NaN
//
// The arithmetic of VDPBF16PS (Intel, Software Developer's Manual, volume 2): each of the two sums is a fused
// multiply-add rounded to nearest, ties to even; denormals are zeroes, read or made; MXCSR has no say. A product of two
// BF16 is exact in FP32, so a sum of K products has K roundings, as one of FP32 by multiply-adds has; beyond that, each
// of the K steps may lose a denormal or make zero of a sum below 2^-126.
#pragma once
#include "avx512.h"

#define JPLLM_BF16_DOT 1

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

inline V dot(V a, V b, V sum) {
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)_mm512_castps_si512(a.v), (__m512bh)_mm512_castps_si512(b.v))};
}

// Words 0, 16, 1, 17, ...: the halves of a register word by word.
inline __m512i halves_in_turn() {
    alignas(64) static const uint16_t words[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_loadu_si512(words);
}
inline V round_halves(V low, V high) { return {_mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(high.v, low.v))}; }
inline V in_turn(V halves) {
    return {_mm512_castsi512_ps(_mm512_permutexvar_epi16(halves_in_turn(), _mm512_castps_si512(halves.v)))};
}
inline V round_pairs(V low, V high) { return in_turn(round_halves(low, high)); }

inline V load_line(const bf16* p, int n) {
    const auto mask = static_cast<__mmask32>((uint64_t{1} << n) - 1);
    return {_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, p))};
}
inline V load_pairs(const bf16* a, const bf16* b, int n) {
    const __mmask16 mask = V::mask(n);
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, a));
    if (b == nullptr) return {_mm512_castsi512_ps(low)};
    const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, b)), 16);
    return {_mm512_castsi512_ps(_mm512_or_si512(low, high))};
}
inline void store_halves(V x, bf16* a, bf16* b) {
    x.store_halves(reinterpret_cast<float*>(a), reinterpret_cast<float*>(b));
}

// 2^x = 2^n 2^(i/16) 2^r, |r| <= 1/32, of which a table has 2^(i/16): three multiply-adds beside the dot products,
// which use the same pipes, where a polynomial alone takes six. The polynomial interpolates (2^r - 1) / r at Chebyshev
// nodes.
inline V exp2_short(V x) {
    // 2^(i/16) less i in the bits below the exponent, so that adding n * 16 + i there makes the power.
    alignas(64) static const uint32_t powers[16] = {
        0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
        0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
    x = max(V::set(-127.0f), x);
    const V magic = V::set(786432.0f);  // 1.5 * 2^19: its last bit is 1/16
    const V t = x + magic, r = x - (t - magic);
    const __m512i bits = _mm512_castps_si512(t.v);
    const __m512i power =
        _mm512_add_epi32(_mm512_permutexvar_epi32(bits, _mm512_loadu_si512(powers)), _mm512_slli_epi32(bits, 19));
    const V p = {_mm512_castsi512_ps(power)};
    return fma(fma(V::set(0.2402312f), r, V::set(0.69317428f)), r * p, p);
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
