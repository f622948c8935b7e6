// FP16 arithmetic with FP16 sums, each multiply-add rounded once, as FPCR.FZ16 has it: denormal inputs count as zero,
// and so does a result below the smallest normal before rounding (Arm ARM DDI 0487, FPRound and FPUnpack).
//
// SVE computes it. Elsewhere it is simulated in FP32 bit for bit (a NaN is a NaN, whatever its payload): values are
// FP32 lanes that hold FP16 numbers.
#pragma once
#include "simd.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

#if defined(__ARM_FEATURE_SVE)

typedef svfloat16_t HalfLanes __attribute__((arm_sve_vector_bits(__ARM_FEATURE_SVE_BITS)));

struct H {
    static constexpr int N = 2 * V::N;
    HalfLanes v;

    static H load(const fp16* p) { return {svreinterpret_f16_u16(svld1_u16(svptrue_b16(), &p->bits))}; }
    static H load_n(const fp16* p, int n) {
        return {svreinterpret_f16_u16(svld1_u16(svwhilelt_b16_s32(0, n), &p->bits))};
    }
    void store(fp16* p) const { svst1_u16(svptrue_b16(), &p->bits, svreinterpret_u16_f16(v)); }
    static H set(fp16 x) { return {svreinterpret_f16_u16(svdup_n_u16(x.bits))}; }
    // In FP32: the even lanes, the odd lanes.
    V even() const { return {svcvt_f32_f16_x(svptrue_b32(), v)}; }
    V odd() const {
        const svuint32_t pairs = svreinterpret_u32_f16(v);
        return {svcvt_f32_f16_x(svptrue_b32(), svreinterpret_f16_u32(svlsr_n_u32_x(svptrue_b32(), pairs, 16)))};
    }
    // In FP32: the first half of the lanes, the second.
    void widen(V* first, V* second) const {
        *first = {svzip1_f32(even().v, odd().v)}, *second = {svzip2_f32(even().v, odd().v)};
    }
};
inline H operator*(H a, H b) { return {svmul_f16_x(svptrue_b16(), a.v, b.v)}; }
inline H fma(H a, H b, H c) { return {svmla_f16_x(svptrue_b16(), c.v, a.v, b.v)}; }

#else

typedef int32_t Bits __attribute__((vector_size(4 * V::N)));

inline Bits bits_of(V x) {
    Bits r;
    memcpy(&r, &x.v, sizeof r);
    return r;
}
inline V from_bits(Bits x) {
    V r;
    memcpy(&r.v, &x, sizeof x);
    return r;
}

constexpr int32_t kSign = INT32_MIN, kMagnitude = INT32_MAX, kInfinity = 0x7f800000;
// FP16's smallest normal and the power of two beyond its largest, as FP32 bits; FP32 has 13 bits more.
constexpr int32_t kSmallestHalf = 0x38800000, kBeyondHalf = 0x47800000, kMoreBits = 0x1fff, kTie = 0x1000;

// Zero, of its sign, for what is below FP16's smallest normal.
inline V flush_half(V x) {
    const Bits s = bits_of(x), normal = (s & kMagnitude) >= kSmallestHalf;
    return from_bits(s & (normal | kSign));
}

// Whether the FP32 sum of any lane may not decide: it lies halfway between two halves or at the smallest normal, where
// the part it lost counts, or is (nearly) beyond the largest half, infinite or NaN.
inline bool any_undecided(V sum) {
#if defined(__AVX512F__) && !defined(JPLLM_SIMDE)
    const __m512i s = _mm512_castps_si512(sum.v), magnitude = _mm512_and_si512(s, _mm512_set1_epi32(kMagnitude));
    const __m512i more = _mm512_and_si512(s, _mm512_set1_epi32(kMoreBits));
    return (_mm512_cmpeq_epi32_mask(more, _mm512_set1_epi32(kTie)) |
            _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(kSmallestHalf)) |
            _mm512_cmpge_epi32_mask(magnitude, _mm512_set1_epi32(kBeyondHalf - 0x10000))) != 0;
#elif defined(__AVX2__) && !defined(JPLLM_SIMDE)
    // In 16-bit parts: the upper is 0x7fff less that of the magnitude, the lower is 0 where the sum lies halfway.
    const __m256i s = _mm256_castps_si256(sum.v);
    const __m256i parts = _mm256_xor_si256(_mm256_and_si256(s, _mm256_set1_epi32(0x7fff0000 | kMoreBits)),
                                           _mm256_set1_epi32(0x7fff0000 | kTie));
    const __m256i limits = _mm256_set1_epi32(((0x7fff - (kBeyondHalf >> 16) + 2) << 16) | 1);
    const __m256i smallest =
        _mm256_cmpeq_epi32(_mm256_and_si256(s, _mm256_set1_epi32(kMagnitude)), _mm256_set1_epi32(kSmallestHalf));
    return _mm256_movemask_epi8(_mm256_or_si256(_mm256_cmpgt_epi16(limits, parts), smallest)) != 0;
#else
    const Bits s = bits_of(sum), magnitude = s & kMagnitude;
    const Bits undecided =
        ((s & kMoreBits) == kTie) | (magnitude == kSmallestHalf) | (magnitude >= kBeyondHalf - 0x10000);
    uint64_t parts[sizeof(Bits) / 8], any = 0;
    memcpy(parts, &undecided, sizeof parts);
    for (const uint64_t part : parts) any |= part;
    return any != 0;
#endif
}

// The half nearest to a * b + c, whose FP32 sum is `sum`, for any lane.
__attribute__((noinline, cold)) V half_of_undecided(V a, V b, V c, V sum) {
    // What the sum lost (Knuth, The Art of Computer Programming, volume 2, 4.2.2); the product loses nothing.
    const V product = a * b, c_part = sum - product;
    const V lost = (product - (sum - c_part)) + (c - c_part);
    const Bits s = bits_of(sum), l = bits_of(lost), magnitude = s & kMagnitude;
    const Bits exact = (l & kMagnitude) == 0, below = ~exact & ((s ^ l) < 0);
    const Bits tie_down = ((s & kMoreBits) == kTie) & (below | (exact & ((s & (kMoreBits + 1)) == 0)));
    const Bits under_smallest = (magnitude == kSmallestHalf) & below;
    const Bits m = magnitude + (tie_down | under_smallest);  // a mask is -1: one unit of FP32 less
    const Bits infinite = m >= kBeyondHalf - kTie, nan = magnitude > kInfinity;
    Bits r = (m + kTie) & ~kMoreBits & (m >= kSmallestHalf);
    r = (r & ~infinite) | (infinite & kInfinity) | (s & kSign);
    return from_bits((r & ~nan) | (nan & 0x7fc00000));
}

// a * b + c of FP16 numbers without denormals, rounded once to FP16. The product is exact in FP32; the sum is rounded
// to FP32 first, which changes the half only where any_undecided says so.
inline __attribute__((always_inline)) V half_fma(V a, V b, V c) {
    const V sum = fma(a, b, c);
    if (__builtin_expect(any_undecided(sum), 0)) return half_of_undecided(a, b, c, sum);
    const Bits s = bits_of(sum), normal = (s & kMagnitude) >= kSmallestHalf;
    return from_bits((s + kTie) & ((normal & (kMagnitude & ~kMoreBits)) | kSign));
}

#endif

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
