// What attention needs of a vector beyond simd.h.
#pragma once
#include "math.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

//   where_within(x, low, high, yes, no)  lane by lane: low <= x && x <= high ? yes : no
//   exp2_negative(x)                     2^x for x <= 0 within 3 units in the last place; 0 below 2^-126, NaN stays NaN
//   in_register(x)                       x is in a register here

// Compilers would rather load a vector once for each use than hold it, or reorder an unrolled loop until it spills.
JPLLM_INLINE void in_register(V& x) {
#if !defined(JPLLM_SIMDE) && (defined(JPLLM_UNIT_AVX512) || defined(JPLLM_UNIT_AVX512BF16) || defined(JPLLM_UNIT_AVX2))
    asm volatile("" : "+v"(x.v));
#else
    (void)x;
#endif
}

#if defined(JPLLM_UNIT_AVX512) || defined(JPLLM_UNIT_AVX512BF16)

inline V where_within(V x, V low, V high, V yes, V no) {
    const __mmask16 in = _mm512_cmp_ps_mask(low.v, x.v, _CMP_LE_OQ);
    const __mmask16 both = static_cast<__mmask16>(in & _mm512_cmp_ps_mask(x.v, high.v, _CMP_LE_OQ));
    return {_mm512_mask_mov_ps(no.v, both, yes.v)};
}

#elif defined(JPLLM_UNIT_AVX2)

inline V where_within(V x, V low, V high, V yes, V no) {
    const __m256 in = _mm256_and_ps(_mm256_cmp_ps(low.v, x.v, _CMP_LE_OQ), _mm256_cmp_ps(x.v, high.v, _CMP_LE_OQ));
    return {_mm256_blendv_ps(no.v, yes.v, in)};
}

#elif defined(__ARM_FEATURE_SVE)

inline V where_within(V x, V low, V high, V yes, V no) {
    const svbool_t in = svcmple_f32(svcmple_f32(svptrue_b32(), low.v, x.v), x.v, high.v);
    return {svsel_f32(in, yes.v, no.v)};
}

#else

inline V where_within(V x, V low, V high, V yes, V no) {
    V r;
    for (int i = 0; i < V::N; ++i) r.v[i] = low.v[i] <= x.v[i] && x.v[i] <= high.v[i] ? yes.v[i] : no.v[i];
    return r;
}

#endif

#if defined(__ARM_FEATURE_SVE)

// FEXPA makes 2^(i/64) of a number's low bits: what is left for the polynomial is |r| <= 1/128. At -127 it gives 0, and
// the denormals above that are flushed (core/threads.cpp).
inline V exp2_negative(V x) {
    const svbool_t all = svptrue_b32();
    const V low = max(x, V::set(-127.0f)), shift = V::set(196608.0f + 127.0f);
    const V z = low + shift, r = low - (z - shift);
    const V power = {svexpa_f32(svreinterpret_u32_f32(z.v))};
    const V p = fma(V::set(2.4022651e-1f), r, V::set(6.9314718e-1f)) * r;
    return {svmla_f32_x(all, power.v, power.v, p.v)};
}

#else

inline V exp2_negative(V x) {
    // Below -127 the power's exponent field is 0, which is the number 0.
    x = max(V::set(-127.0f), x);
    const V magic = V::set(12583039.0f);  // 1.5 * 2^23 + 127
    const V t = x + magic, r = x - (t - magic);
    V p = fma(V::set(1.326473313e-3f), r, V::set(9.671512991e-3f));
    p = fma(p, r, V::set(5.550733581e-2f));
    p = fma(p, r, V::set(2.402224243e-1f));
    p = fma(p, r, V::set(6.931470037e-1f));
    p = fma(p, r, V::set(1.0f));
    return p * power_of(t);
}

#endif

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
