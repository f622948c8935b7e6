// The vector type for AVX-512 (F, BW, DQ, VL): 16 FP32 lanes. simd.h lists the interface.
#pragma once
#if defined(JPLLM_SIMDE)
#include "over_simde.h"
#else
#include <immintrin.h>
#endif

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

struct V {
    static constexpr int N = 16;
    __m512 v;

    static V zero() { return {_mm512_setzero_ps()}; }
    static V set(float x) { return {_mm512_set1_ps(x)}; }
    static V load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static V load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(mask(n), p)}; }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void store_n(float* p, int n) const { _mm512_mask_storeu_ps(p, mask(n), v); }

    static V load(const bf16* p) { return load_n(p, N); }
    static V load_n(const bf16* p, int n) { return widen(_mm256_maskz_loadu_epi16(mask(n), p)); }
    void store(bf16* p) const { store_n(p, N); }
    void store_n(bf16* p, int n) const { _mm256_mask_storeu_epi16(p, mask(n), narrow()); }
    __m256i narrow() const {
        const __m512i bits = _mm512_castps_si512(v);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
    }

    static V load(const fp16* p) { return load_n(p, N); }
    static V load_n(const fp16* p, int n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), p))}; }
    void store(fp16* p) const { store_n(p, N); }
    void store_n(fp16* p, int n) const { _mm256_mask_storeu_epi16(p, mask(n), halves()); }
    __m256i halves() const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

    void stream(float* p) const { _mm512_stream_ps(p, v); }
    void stream(bf16* p) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow()); }
    void stream(fp16* p) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), halves()); }

    void store_halves(float* low, float* high) const {
        _mm256_storeu_ps(low, _mm512_castps512_ps256(v));
        _mm256_storeu_ps(high, _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
    }

    static V widen(__m256i halves) {
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
    }
    static __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
};

inline void stream_end() { _mm_sfence(); }
inline void zero_lines(void*, size_t) {}

inline V operator+(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline V operator-(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline V operator*(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline V operator/(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
inline V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline V fnma(V a, V b, V c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
inline V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
inline V sqrt(V a) { return {_mm512_sqrt_ps(a.v)}; }
inline V round(V a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline V scale2(V a, V n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline V first_n(V a, int n, float fill) { return {_mm512_mask_mov_ps(_mm512_set1_ps(fill), V::mask(n), a.v)}; }
inline float sum(V a) { return _mm512_reduce_add_ps(a.v); }
inline float max_lane(V a) { return _mm512_reduce_max_ps(a.v); }

// r[i][j] -> r[j][i]: pairs, then quads within 128-bit lanes, then the lanes themselves.
inline void transpose(V (&r)[16]) {
    __m512 t[16], u[16];
    JPLLM_UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
        t[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
    }
    JPLLM_UNROLL for (int i = 0; i < 16; i += 4) {
        const auto pd = [](__m512 x) { return _mm512_castps_pd(x); };
        u[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(t[i]), pd(t[i + 2])));
        u[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(t[i]), pd(t[i + 2])));
        u[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(t[i + 1]), pd(t[i + 3])));
        u[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(t[i + 1]), pd(t[i + 3])));
    }
    JPLLM_UNROLL for (int i = 0; i < 4; ++i) {
        const __m512 a = _mm512_shuffle_f32x4(u[i], u[4 + i], 0x88), b = _mm512_shuffle_f32x4(u[i], u[4 + i], 0xdd);
        const __m512 c = _mm512_shuffle_f32x4(u[8 + i], u[12 + i], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(u[8 + i], u[12 + i], 0xdd);
        r[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
        r[8 + i].v = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[4 + i].v = _mm512_shuffle_f32x4(b, d, 0x88);
        r[12 + i].v = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

// Tile 8 x 48: 24 sums + 3 of B + 1 of A in 32 registers. B streams from L2 anyway (a sliver of it outgrows 32 KiB of
// L1), so block_k is long; docs/kernels.md has the measurement.
struct Tuning {
    static constexpr int tile_rows = 8, tile_vectors = 3;
    static constexpr int block_k = 512, block_m = 96, panel_n = 2048, panel_m = 2048;
    static constexpr int prefetch = 0, line = 16;
};

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
