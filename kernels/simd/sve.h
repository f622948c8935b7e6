// The vector type for SVE with 512-bit vectors (A64FX, 16 FP32 lanes) or 256-bit ones (8), of a fixed length so that
// arrays of it exist.
// FDIV and FSQRT block an A64FX core's pipe for 98 cycles (A64FX Microarchitecture Manual 1.8.1), so both are made of
// an estimate and Newton steps, within 2 units in the last place. simd.h lists the interface.
#pragma once
#include <arm_sve.h>

#if !defined(__ARM_FEATURE_SVE_BITS) || (__ARM_FEATURE_SVE_BITS != 512 && __ARM_FEATURE_SVE_BITS != 256)
#error "compile the sve512 unit with -msve-vector-bits=512, the sve256 unit with -msve-vector-bits=256"
#endif

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

typedef svfloat32_t Lanes __attribute__((arm_sve_vector_bits(__ARM_FEATURE_SVE_BITS)));

struct V {
    static constexpr int N = __ARM_FEATURE_SVE_BITS / 32;
    Lanes v;

    static V zero() { return {svdup_n_f32(0.0f)}; }
    static V set(float x) { return {svdup_n_f32(x)}; }
    static V load(const float* p) { return {svld1_f32(svptrue_b32(), p)}; }
    static V load_n(const float* p, int n) { return {svld1_f32(svwhilelt_b32_s32(0, n), p)}; }
    void store(float* p) const { svst1_f32(svptrue_b32(), p, v); }
    void store_n(float* p, int n) const { svst1_f32(svwhilelt_b32_s32(0, n), p, v); }

    static V load(const bf16* p) { return widen(svptrue_b32(), p); }
    static V load_n(const bf16* p, int n) { return widen(svwhilelt_b32_s32(0, n), p); }
    void store(bf16* p) const { narrow(svptrue_b32(), p); }
    void store_n(bf16* p, int n) const { narrow(svwhilelt_b32_s32(0, n), p); }

    // A half lies in the low part of each 32-bit lane, where FCVT reads and writes it.
    static V load(const fp16* p) { return from_halves(svld1uh_u32(svptrue_b32(), &p->bits)); }
    static V load_n(const fp16* p, int n) { return from_halves(svld1uh_u32(svwhilelt_b32_s32(0, n), &p->bits)); }
    void store(fp16* p) const { svst1h_u32(svptrue_b32(), &p->bits, to_halves()); }
    void store_n(fp16* p, int n) const { svst1h_u32(svwhilelt_b32_s32(0, n), &p->bits, to_halves()); }

    template <class T>
    void stream(T* p) const {
        store(p);
    }

    void store_halves(float* low, float* high) const {
        const svbool_t first = svwhilelt_b32_s32(0, N / 2);
        svst1_f32(first, low, v);
        svst1_f32(svnot_b_z(svptrue_b32(), first), high - N / 2, v);
    }

    static V widen(svbool_t lanes, const bf16* p) {
        return {svreinterpret_f32_u32(svlsl_n_u32_x(svptrue_b32(), svld1uh_u32(lanes, &p->bits), 16))};
    }
    void narrow(svbool_t lanes, bf16* p) const {
        const svbool_t all = svptrue_b32();
        const svuint32_t bits = svreinterpret_u32_f32(v);
        const svuint32_t odd = svand_n_u32_x(all, svlsr_n_u32_x(all, bits, 16), 1);
        const svuint32_t rounded = svadd_u32_x(all, bits, svadd_n_u32_x(all, odd, 0x7fff));
        const svuint32_t quiet = svorr_n_u32_x(all, bits, 0x400000);
        const svuint32_t chosen = svsel_u32(svcmpuo_f32(all, v, v), quiet, rounded);
        svst1h_u32(lanes, &p->bits, svlsr_n_u32_x(all, chosen, 16));
    }
    static V from_halves(svuint32_t x) { return {svcvt_f32_f16_x(svptrue_b32(), svreinterpret_f16_u32(x))}; }
    svuint32_t to_halves() const { return svreinterpret_u32_f16(svcvt_f16_f32_x(svptrue_b32(), v)); }
};

inline void stream_end() {}

// DC ZVA, where it is allowed: A64FX makes a line of zeroes in L2 without reading memory (256 bytes a line).
inline void zero_lines(void* p, size_t bytes) {
    uint64_t id;
    __asm__("mrs %0, dczid_el0" : "=r"(id));
    if ((id & 0x10) != 0) return;
    const uintptr_t line = uintptr_t{4} << (id & 0xf), start = reinterpret_cast<uintptr_t>(p);
    for (uintptr_t at = (start + line - 1) & ~(line - 1); at + line <= start + bytes; at += line) {
        __asm__ volatile("dc zva, %0" : : "r"(at) : "memory");
    }
}

inline V operator+(V a, V b) { return {svadd_f32_x(svptrue_b32(), a.v, b.v)}; }
inline V operator-(V a, V b) { return {svsub_f32_x(svptrue_b32(), a.v, b.v)}; }
inline V operator*(V a, V b) { return {svmul_f32_x(svptrue_b32(), a.v, b.v)}; }
inline V operator/(V a, V b) {
    svfloat32_t r = svrecpe_f32(b.v);
    r = svmul_f32_x(svptrue_b32(), r, svrecps_f32(b.v, r));
    r = svmul_f32_x(svptrue_b32(), r, svrecps_f32(b.v, r));
    return {svmul_f32_x(svptrue_b32(), a.v, r)};
}
inline V fma(V a, V b, V c) { return {svmla_f32_x(svptrue_b32(), c.v, a.v, b.v)}; }
inline V fnma(V a, V b, V c) { return {svmls_f32_x(svptrue_b32(), c.v, a.v, b.v)}; }
inline V max(V a, V b) { return {svmax_f32_x(svptrue_b32(), a.v, b.v)}; }
inline V min(V a, V b) { return {svmin_f32_x(svptrue_b32(), a.v, b.v)}; }
inline V sqrt(V a) {
    const svbool_t all = svptrue_b32();
    svfloat32_t r = svrsqrte_f32(a.v);
    r = svmul_f32_x(all, r, svrsqrts_f32(svmul_f32_x(all, a.v, r), r));
    r = svmul_f32_x(all, r, svrsqrts_f32(svmul_f32_x(all, a.v, r), r));
    // 0 and infinity are their own roots, but 0 * infinity above is not.
    const svbool_t self = svorr_b_z(all, svcmpeq_n_f32(all, a.v, 0.0f), svcmpeq_n_f32(all, a.v, __builtin_inff()));
    return {svsel_f32(self, a.v, svmul_f32_x(all, a.v, r))};
}
inline V round(V a) { return {svrintn_f32_x(svptrue_b32(), a.v)}; }
inline V scale2(V a, V n) { return {svscale_f32_x(svptrue_b32(), a.v, svcvt_s32_f32_x(svptrue_b32(), n.v))}; }
inline V first_n(V a, int n, float fill) { return {svsel_f32(svwhilelt_b32_s32(0, n), a.v, svdup_n_f32(fill))}; }
inline float sum(V a) { return svaddv_f32(svptrue_b32(), a.v); }
inline float max_lane(V a) { return svmaxv_f32(svptrue_b32(), a.v); }

// log2(N) perfect shuffles of the rows' halves: row-major becomes column-major.
inline void transpose(V (&r)[V::N]) {
    constexpr int half = V::N / 2;
    JPLLM_UNROLL for (int stage = 1; stage < V::N; stage *= 2) {
        Lanes t[V::N];
        JPLLM_UNROLL for (int i = 0; i < half; ++i) {
            t[2 * i] = svzip1_f32(r[i].v, r[half + i].v);
            t[2 * i + 1] = svzip2_f32(r[i].v, r[half + i].v);
        }
        JPLLM_UNROLL for (int i = 0; i < V::N; ++i)
            r[i].v = t[i];
    }
}

// Tile 8 x 48 (as Arm's and KleidiAI's 8 x 3VL): 24 sums in flight cover the latency of 9 on two pipes. B streams from
// L2 (256-byte lines, 192 bytes a step), so it is asked for two lines ahead. Blocks: A within a core's share of L2, B
// in the CMG's.
struct Tuning {
    static constexpr int tile_rows = 8, tile_vectors = 3;
    static constexpr int block_k = 256, block_m = 128, panel_n = 2048, panel_m = 2048;
    static constexpr int prefetch = 512, line = 64;
};

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
