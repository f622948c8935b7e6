// exp and what is built on it, over the vector type.
#pragma once
#include "simd.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

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
#else
// e^x = 2^n e^r, |r| <= ln 2 / 2, e^r = 1 + r + r^2 p(r); p interpolates at Chebyshev nodes (relative error 1e-8).
// Within 2 units in the last place; overflows to infinity, underflows to 0, NaN stays NaN.
inline V exp(V x) {
    // The bounds come first: x86's max and min give the second operand where one is NaN.
    x = max(V::set(-104.0f), min(V::set(104.0f), x));
    const V n = round(x * V::set(1.44269504f));
    // ln 2 in two parts, the first with few bits so that n times it is exact.
    const V r = fnma(n, V::set(-2.12194440e-4f), fnma(n, V::set(0.693359375f), x));
    V p = fma(V::set(1.392632606e-03f), r, V::set(8.363292553e-03f));
    p = fma(p, r, V::set(4.166655242e-02f));
    p = fma(p, r, V::set(1.666657627e-01f));
    p = fma(p, r, V::set(0.5f));
    return scale2(fma(p, r * r, r) + V::set(1.0f), n);
}
#endif

inline V sigmoid(V x) { return V::set(1.0f) / (V::set(1.0f) + exp(V::zero() - x)); }

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
