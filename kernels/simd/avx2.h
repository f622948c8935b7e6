// The vector type for AVX2 with FMA and F16C: 8 FP32 lanes. simd.h lists the interface.
#pragma once
#include <immintrin.h>

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

struct V {
    static constexpr int N = 8;
    __m256 v;

    static V zero() { return {_mm256_setzero_ps()}; }
    static V set(float x) { return {_mm256_set1_ps(x)}; }
    static V load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static V load_n(const float* p, int n) { return {_mm256_maskload_ps(p, mask(n))}; }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    void store_n(float* p, int n) const { _mm256_maskstore_ps(p, mask(n), v); }

    static V load(const bf16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
    static V load_n(const bf16* p, int n) { return widen(first(p, n)); }
    void store(bf16* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow()); }
    void store_n(bf16* p, int n) const { put(narrow(), p, n); }

    static V load(const fp16* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
    static V load_n(const fp16* p, int n) { return {_mm256_cvtph_ps(first(p, n))}; }
    void store(fp16* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves()); }
    void store_n(fp16* p, int n) const { put(halves(), p, n); }

    void stream(float* p) const { _mm256_stream_ps(p, v); }
    void stream(bf16* p) const { _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow()); }
    void stream(fp16* p) const { _mm_stream_si128(reinterpret_cast<__m128i*>(p), halves()); }

    static V widen(__m128i x) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16))}; }
    __m128i halves() const { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    __m128i narrow() const {
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded(), quiet(), nan), 16);
        return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08));
    }
    // The first n 16-bit elements; there is no masked load of them.
    template <class T>
    static __m128i first(const T* p, int n) {
        uint16_t lanes[N] = {};
        for (int i = 0; i < n; ++i) lanes[i] = p[i].bits;
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(lanes));
    }
    template <class T>
    static void put(__m128i x, T* p, int n) {
        uint16_t lanes[N];
        _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), x);
        for (int i = 0; i < n; ++i) p[i].bits = lanes[i];
    }

    void store_halves(float* low, float* high) const {
        _mm_storeu_ps(low, _mm256_castps256_ps128(v));
        _mm_storeu_ps(high, _mm256_extractf128_ps(v, 1));
    }

    // BF16 in the upper halves of the lanes; not of a NaN, whose bits may carry over into its sign.
    __m256i rounded() const {
        const __m256i bits = _mm256_castps_si256(v);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    }
    __m256i quiet() const { return _mm256_or_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x400000)); }

    static __m256i mask(int n) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
};

// BF16 costs its shuffles and shifts, for which there are two pipes. So vectors take the even and the odd elements of a
// row where their order is free, two are packed at a time where it is not, and only a branch looks for NaN.
struct Rounded {
    __m256i x, y;  // in the upper halves of the lanes
};
JPLLM_INLINE Rounded round_two(V x, V y) {
    const __m256 nan = _mm256_cmp_ps(x.v, y.v, _CMP_UNORD_Q);
    if (__builtin_expect(_mm256_movemask_ps(nan), 0) == 0) return {x.rounded(), y.rounded()};
    const auto either = [](V a) {
        return _mm256_blendv_epi8(a.rounded(), a.quiet(), _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)));
    };
    return {either(x), either(y)};
}
JPLLM_INLINE __m256i two_in_order(V x, V y) {
    const Rounded r = round_two(x, y);
    const __m256i halves = _mm256_packus_epi32(_mm256_srli_epi32(r.x, 16), _mm256_srli_epi32(r.y, 16));
    return _mm256_permute4x64_epi64(halves, 0xd8);
}
JPLLM_INLINE __m256i two_mixed(V x, V y) {
    const Rounded r = round_two(x, y);
    return _mm256_blend_epi16(_mm256_srli_epi32(r.x, 16), r.y, 0xaa);
}
JPLLM_INLINE void store_two(bf16* p, V x, V y) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), two_in_order(x, y));
}
JPLLM_INLINE void stream_two(bf16* p, V x, V y) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), two_in_order(x, y));
}
JPLLM_INLINE void load_mixed(const bf16* p, V& x, V& y) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    x.v = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    y.v = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
}
JPLLM_INLINE void store_mixed(bf16* p, V x, V y) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), two_mixed(x, y));
}
JPLLM_INLINE void stream_mixed(bf16* p, V x, V y) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), two_mixed(x, y));
}

inline void stream_end() { _mm_sfence(); }
inline void zero_lines(void*, size_t) {}

inline V operator+(V a, V b) { return {_mm256_add_ps(a.v, b.v)}; }
inline V operator-(V a, V b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline V operator*(V a, V b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline V operator/(V a, V b) { return {_mm256_div_ps(a.v, b.v)}; }
inline V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline V fnma(V a, V b, V c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
inline V max(V a, V b) { return {_mm256_max_ps(a.v, b.v)}; }
inline V min(V a, V b) { return {_mm256_min_ps(a.v, b.v)}; }
inline V sqrt(V a) { return {_mm256_sqrt_ps(a.v)}; }
inline V round(V a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// Two factors, so that |n| <= 252 over- and underflows as it should.
inline V scale2(V a, V n) {
    const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
    const auto power = [](__m256i e) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
    };
    return {_mm256_mul_ps(_mm256_mul_ps(a.v, power(half)), power(_mm256_sub_epi32(whole, half)))};
}
inline V first_n(V a, int n, float fill) {
    return {_mm256_blendv_ps(_mm256_set1_ps(fill), a.v, _mm256_castsi256_ps(V::mask(n)))};
}
inline float sum(V a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
inline float max_lane(V a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}

// Of t[i] = rows i and i + 4 side by side, elements 0-3 of each, and t[4 + i] = their elements 4-7.
inline void transpose_lanes(const __m256 (&t)[8], V (&r)[8]) {
    JPLLM_UNROLL for (int h = 0; h < 8; h += 4) {
        const __m256 a = _mm256_unpacklo_ps(t[h], t[h + 1]), b = _mm256_unpackhi_ps(t[h], t[h + 1]);
        const __m256 c = _mm256_unpacklo_ps(t[h + 2], t[h + 3]), d = _mm256_unpackhi_ps(t[h + 2], t[h + 3]);
        r[h].v = _mm256_shuffle_ps(a, c, 0x44);
        r[h + 1].v = _mm256_shuffle_ps(a, c, 0xee);
        r[h + 2].v = _mm256_shuffle_ps(b, d, 0x44);
        r[h + 3].v = _mm256_shuffle_ps(b, d, 0xee);
    }
}
inline void transpose(V (&r)[8]) {
    __m256 t[8];
    JPLLM_UNROLL for (int i = 0; i < 4; ++i) {
        t[i] = _mm256_permute2f128_ps(r[i].v, r[4 + i].v, 0x20);
        t[4 + i] = _mm256_permute2f128_ps(r[i].v, r[4 + i].v, 0x31);
    }
    transpose_lanes(t, r);
}
// The load ports put the halves in place, which spares the shuffles across them.
inline void load_transposed(V (&r)[8], const float* p, int64_t stride) {
    const auto both = [](const float* low, const float* high) {
        return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
    };
    __m256 t[8];
    JPLLM_UNROLL for (int i = 0; i < 4; ++i) {
        t[i] = both(p + i * stride, p + (4 + i) * stride);
        t[4 + i] = both(p + i * stride + 4, p + (4 + i) * stride + 4);
    }
    transpose_lanes(t, r);
}

// Tile 4 x 24: 12 sums + 3 of B + 1 of A in 16 registers.
struct Tuning {
    static constexpr int tile_rows = 4, tile_vectors = 3;
    static constexpr int block_k = 512, block_m = 96, panel_n = 2048, panel_m = 2048;
    static constexpr int prefetch = 0, line = 16;
};

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
