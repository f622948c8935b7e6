// exp and what is built on it, over the vector type.
#pragma once
#include "in_step.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

#if !defined(__ARM_FEATURE_SVE)
// 2^n of the sum 1.5 * 2^23 + 127 + n, -127 <= n <= 128: 0 at the one end, infinity at the other.
#if defined(JPLLM_UNIT_AVX512) || defined(JPLLM_UNIT_AVX512BF16)
inline V power_of(V t) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t.v), 23))}; }
#elif defined(JPLLM_UNIT_AVX2)
inline V power_of(V t) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t.v), 23))}; }
#else
inline V power_of(V t) {
    Uint4 bits;
    memcpy(&bits, &t.v, sizeof bits);
    bits = bits << 23;
    V r;
    memcpy(&r.v, &bits, sizeof bits);
    return r;
}
#endif
inline Vs power_of(Vs t) { return {power_of(t.a), power_of(t.b), power_of(t.c), power_of(t.d)}; }
#endif

#if defined(__ARM_FEATURE_SVE)
// e^x = 2^(n/64) e^r, |r| <= ln 2 / 128, e^r = 1 + 1.0000037 r + r^2 / 2 (relative error 7e-9); FEXPA makes the power
// from the low bits of n + 127 * 64, where a sum with 3 * 2^16 has them. Within 2 units in the last place down to
// 2^-126, less than that below; overflows to infinity from 127.99 ln 2 on, underflows to 0, NaN stays NaN.
inline V exp(V x) {
    const svbool_t all = svptrue_b32();
    const Lanes shift = svdup_n_f32(196608.0f + 127.0f);
    // At the bounds FEXPA gives 0 and infinity.
    x = max(V::set(-127.0f * 0.6931472f), min(V::set(128.0f * 0.6931472f), x));
    const Lanes z = svmla_n_f32_x(all, shift, x.v, 1.44269504f);
    const V n = {svsub_f32_x(all, z, shift)};
    const V r = fnma(n, V::set(-2.12194440e-4f), fnma(n, V::set(0.693359375f), x));
    const V p = fma(fma(V::set(0.5f), r, V::set(1.0000037f)), r, V::set(1.0f));
    return {svmul_f32_x(all, p.v, svexpa_f32(svreinterpret_u32_f32(z)))};
}
inline Vs exp(Vs x) { return {exp(x.a), exp(x.b), exp(x.c), exp(x.d)}; }
#else
// e^x = 2^n e^r, |r| <= ln 2 / 2, e^r = 1 + r + r^2 p(r); p interpolates at Chebyshev nodes (relative error 1e-8).
// Within 2 units in the last place; 0 below 2^-126, infinity from 127.5 ln 2 on, NaN stays NaN.
template <class X>
inline X exp(X x) {
    // At the bounds the power is 0 and infinity. They come first: x86's max and min give the second operand where one
    // is NaN.
    x = max(X::set(-88.0f), min(X::set(89.0f), x));
    const X magic = X::set(12583039.0f);  // 1.5 * 2^23 + 127: a sum with it has n + 127 in its low bits
    const X t = fma(x, X::set(1.44269504f), magic), n = t - magic;
    // ln 2 in two parts, the first with few bits so that n times it is exact.
    const X r = fnma(n, X::set(-2.12194440e-4f), fnma(n, X::set(0.693359375f), x));
    X p = fma(X::set(1.392632606e-03f), r, X::set(8.363292553e-03f));
    p = fma(p, r, X::set(4.166655242e-02f));
    p = fma(p, r, X::set(1.666657627e-01f));
    p = fma(p, r, X::set(0.5f));
    return (fma(p, r * r, r) + X::set(1.0f)) * power_of(t);
}
#endif

template <class X>
inline X sigmoid(X x) {
    return X::set(1.0f) / (X::set(1.0f) + exp(X::zero() - x));
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
