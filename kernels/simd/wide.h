// FP64 sums of squares of a vector's lanes: the square of an FP32 number is exact in FP64.
#pragma once
#include "simd.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

//   wide_zero()  add_square(s, x) = s + x^2, lane by lane  s + t  sum(s) across the lanes, a fixed order

#if defined(JPLLM_UNIT_AVX2) || defined(JPLLM_SIMDE)

struct Wide {
    static constexpr int parts = V::N / 4;
    __m256d v[parts];
};
inline __m256d add_square(__m256d s, __m128 x) {
    const __m256d wide = _mm256_cvtps_pd(x);
    return _mm256_fmadd_pd(wide, wide, s);
}
inline __m256d add_parts(__m256d a, __m256d b) { return _mm256_add_pd(a, b); }
inline Wide add_square(Wide s, V x) {
    __m128 part[Wide::parts];
    memcpy(part, &x, sizeof x);
    JPLLM_UNROLL for (int i = 0; i < Wide::parts; ++i)
        s.v[i] = add_square(s.v[i], part[i]);
    return s;
}

#elif defined(JPLLM_UNIT_AVX512) || defined(JPLLM_UNIT_AVX512BF16)

struct Wide {
    static constexpr int parts = 2;
    __m512d v[parts];
};
inline __m512d add_parts(__m512d a, __m512d b) { return _mm512_add_pd(a, b); }
inline Wide add_square(Wide s, V x) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(x.v));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1));
    return {_mm512_fmadd_pd(low, low, s.v[0]), _mm512_fmadd_pd(high, high, s.v[1])};
}

#elif defined(__ARM_FEATURE_SVE)

typedef svfloat64_t WideLanes __attribute__((arm_sve_vector_bits(__ARM_FEATURE_SVE_BITS)));
struct Wide {
    static constexpr int parts = 2;
    WideLanes v[parts];
};
inline svfloat64_t add_parts(svfloat64_t a, svfloat64_t b) { return svadd_f64_x(svptrue_b64(), a, b); }
// A number in the low part of each 64-bit lane is where FCVT reads it.
inline svfloat64_t add_square(svfloat64_t s, svuint64_t x) {
    const svfloat64_t wide = svcvt_f64_f32_x(svptrue_b64(), svreinterpret_f32_u64(x));
    return svmla_f64_x(svptrue_b64(), s, wide, wide);
}
inline Wide add_square(Wide s, V x) {
    const svuint32_t bits = svreinterpret_u32_f32(x.v);
    return {add_square(s.v[0], svunpklo_u64(bits)), add_square(s.v[1], svunpkhi_u64(bits))};
}

#else

typedef double Double2 __attribute__((vector_size(16)));
struct Wide {
    static constexpr int parts = 2;
    Double2 v[parts];
};
inline Double2 add_parts(Double2 a, Double2 b) { return a + b; }
inline Wide add_square(Wide s, V x) {
    for (int i = 0; i < Wide::parts; ++i) {
        const Double2 wide = {static_cast<double>(x.v[2 * i]), static_cast<double>(x.v[2 * i + 1])};
        s.v[i] += wide * wide;
    }
    return s;
}

#endif

inline Wide wide_zero() {
    Wide s;
    memset(&s, 0, sizeof s);
    return s;
}
inline Wide operator+(Wide a, Wide b) {
    JPLLM_UNROLL for (int i = 0; i < Wide::parts; ++i)
        a.v[i] = add_parts(a.v[i], b.v[i]);
    return a;
}
inline double sum(Wide s) {
    double lanes[V::N], total = 0;
    static_assert(sizeof lanes == sizeof s, "one FP64 lane for each FP32 one");
    memcpy(lanes, &s, sizeof s);
    for (int i = 0; i < V::N; ++i) total += lanes[i];
    return total;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
