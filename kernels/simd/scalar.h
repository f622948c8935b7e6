// The portable vector type: 4 FP32 lanes of the compilers' generic vectors. Without flags this is SSE2 on x86-64 and
// NEON on aarch64; anywhere else plain scalar code. simd.h lists the interface.
#pragma once

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t Uint4 __attribute__((vector_size(16)));

struct V {
    static constexpr int N = 4;
    Float4 v;

    static V zero() { return {Float4{0, 0, 0, 0}}; }
    static V set(float x) { return {Float4{x, x, x, x}}; }
    static V load(const float* p) {
        V r;
        memcpy(&r.v, p, sizeof r.v);
        return r;
    }
    static V load_n(const float* p, int n) {
        V r = zero();
        for (int i = 0; i < n; ++i) r.v[i] = p[i];
        return r;
    }
    void store(float* p) const { memcpy(p, &v, sizeof v); }
    void store_n(float* p, int n) const {
        for (int i = 0; i < n; ++i) p[i] = v[i];
    }

    static V load(const bf16* p) { return load_n(p, N); }
    static V load_n(const bf16* p, int n) {
        Uint4 bits = {0, 0, 0, 0};
        for (int i = 0; i < n; ++i) bits[i] = static_cast<uint32_t>(p[i].bits) << 16;
        return from_bits(bits);
    }
    void store(bf16* p) const { store_n(p, N); }
    void store_n(bf16* p, int n) const {
        Uint4 bits;
        memcpy(&bits, &v, sizeof bits);
        for (int i = 0; i < n; ++i) {
            const uint32_t b = bits[i];
            const bool nan = (b & 0x7fffffffu) > 0x7f800000u;
            p[i].bits = static_cast<uint16_t>((nan ? (b | 0x400000u) : b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
        }
    }

    static V load(const fp16* p) { return load_n(p, N); }
    static V load_n(const fp16* p, int n) {
        V r = zero();
        for (int i = 0; i < n; ++i) r.v[i] = widen(p[i]);
        return r;
    }
    void store(fp16* p) const { store_n(p, N); }
    void store_n(fp16* p, int n) const {
        for (int i = 0; i < n; ++i) p[i] = narrow(v[i]);
    }

    template <class T>
    void stream(T* p) const {
        store(p);
    }

    void store_halves(float* low, float* high) const {
        memcpy(low, &v, sizeof v / 2);
        memcpy(high, reinterpret_cast<const char*>(&v) + sizeof v / 2, sizeof v / 2);
    }

    static V from_bits(Uint4 bits) {
        V r;
        memcpy(&r.v, &bits, sizeof bits);
        return r;
    }
    // IEEE 754 binary16. A subnormal h is h * 2^-24, exact in FP32.
    static float widen(fp16 h) {
        const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16, magnitude = h.bits & 0x7fffu;
        uint32_t bits;
        if (magnitude < 0x400u) {
            const float x = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
            memcpy(&bits, &x, sizeof bits);
        } else if (magnitude < 0x7c00u) {
            bits = (magnitude << 13) + (112u << 23);
        } else {
            bits = 0x7f800000u | (magnitude & 0x3ffu) << 13;
            if ((magnitude & 0x3ffu) != 0) bits |= 0x400000u;
        }
        bits |= sign;
        float x;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    static fp16 narrow(float x) {
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
        uint32_t half;
        if (magnitude > 0x7f800000u) {
            half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
        } else if (magnitude >= 0x477ff000u) {  // 65520, halfway between the largest half and the next power of two
            half = 0x7c00u;
        } else if (magnitude >= 0x38800000u) {  // 2^-14, the smallest normal half
            half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
        } else {
            // Adding 0.5 puts the last bit of a subnormal half at FP32's last bit, and rounds there.
            float y;
            memcpy(&y, &magnitude, sizeof y);
            volatile float shifted = y + 0.5f;
            const float result = shifted;
            memcpy(&half, &result, sizeof half);
            half -= 0x3f000000u;
        }
        return {static_cast<uint16_t>(half | sign)};
    }
};

inline void stream_end() {}
inline void zero_lines(void*, size_t) {}

inline V operator+(V a, V b) { return {a.v + b.v}; }
inline V operator-(V a, V b) { return {a.v - b.v}; }
inline V operator*(V a, V b) { return {a.v * b.v}; }
inline V operator/(V a, V b) { return {a.v / b.v}; }
inline V fma(V a, V b, V c) { return {a.v * b.v + c.v}; }
inline V fnma(V a, V b, V c) { return {c.v - a.v * b.v}; }
// As x86: the second operand where either is NaN.
inline V max(V a, V b) {
    V r;
    for (int i = 0; i < V::N; ++i) r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return r;
}
inline V min(V a, V b) {
    V r;
    for (int i = 0; i < V::N; ++i) r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return r;
}
inline V sqrt(V a) {
    V r;
    for (int i = 0; i < V::N; ++i) r.v[i] = __builtin_sqrtf(a.v[i]);
    return r;
}
// For |a| < 2^22 only, which is all that exp needs.
inline V round(V a) {
    const V magic = V::set(12582912.0f);
    return (a + magic) - magic;
}
// Two factors, so that |n| <= 252 over- and underflows as it should.
inline V scale2(V a, V n) {
    const Int4 whole = __builtin_convertvector(n.v, Int4), half = whole >> 1;
    const Int4 low = (half + 127) << 23, high = (whole - half + 127) << 23;
    V x, y;
    memcpy(&x.v, &low, sizeof low);
    memcpy(&y.v, &high, sizeof high);
    return a * x * y;
}
inline V first_n(V a, int n, float fill) {
    for (int i = n; i < V::N; ++i) a.v[i] = fill;
    return a;
}
inline float sum(V a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline float max_lane(V a) {
    float r = a.v[0];
    for (int i = 1; i < V::N; ++i) r = a.v[i] > r ? a.v[i] : r;
    return r;
}

inline void transpose(V (&r)[4]) {
    const V t[4] = {r[0], r[1], r[2], r[3]};
    for (int i = 0; i < 4; ++i) r[i].v = Float4{t[0].v[i], t[1].v[i], t[2].v[i], t[3].v[i]};
}

// Tile 4 x 8: 8 sums + 2 of B + 1 of A (+ 1 product, there may be no FMA) in the 16 registers of x86-64.
struct Tuning {
    static constexpr int tile_rows = 4, tile_vectors = 2;
    static constexpr int block_k = 256, block_m = 128, panel_n = 2048, panel_m = 2048;
    static constexpr int prefetch = 0, line = 16;
};

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
