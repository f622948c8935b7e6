// exp and what is built on it, over the vector type.
#pragma once
#include "simd.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

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

inline V sigmoid(V x) { return V::set(1.0f) / (V::set(1.0f) + exp(V::zero() - x)); }

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
