// Four vectors that go through the same arithmetic in step. Compilers keep the order of the text, and a core looks only
// so far ahead: of long chains one after the other, as exp is one, it sees too few to fill its pipes.
#pragma once
#include "simd.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

struct Vs {
    static constexpr int N = 4 * V::N;
    V a, b, c, d;  // not an array: GCC would keep it in memory

    static Vs set(float x) { return {V::set(x), V::set(x), V::set(x), V::set(x)}; }
    static Vs zero() { return set(0.0f); }
    template <class T>
    static JPLLM_INLINE Vs load(const T* p) {
        return {V::load(p), V::load(p + V::N), V::load(p + 2 * V::N), V::load(p + 3 * V::N)};
    }
    template <class T>
    JPLLM_INLINE void store(T* p) const {
        store_two(p, a, b), store_two(p + 2 * V::N, c, d);
    }
    template <class T>
    JPLLM_INLINE void stream(T* p) const {
        stream_two(p, a, b), stream_two(p + 2 * V::N, c, d);
    }
};

inline Vs operator+(Vs x, Vs y) { return {x.a + y.a, x.b + y.b, x.c + y.c, x.d + y.d}; }
inline Vs operator-(Vs x, Vs y) { return {x.a - y.a, x.b - y.b, x.c - y.c, x.d - y.d}; }
inline Vs operator*(Vs x, Vs y) { return {x.a * y.a, x.b * y.b, x.c * y.c, x.d * y.d}; }
inline Vs operator/(Vs x, Vs y) { return {x.a / y.a, x.b / y.b, x.c / y.c, x.d / y.d}; }
inline Vs operator-(Vs x, V y) { return {x.a - y, x.b - y, x.c - y, x.d - y}; }
inline Vs operator*(Vs x, V y) { return {x.a * y, x.b * y, x.c * y, x.d * y}; }
inline Vs fma(Vs x, Vs y, Vs z) {
    return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b), fma(x.c, y.c, z.c), fma(x.d, y.d, z.d)};
}
inline Vs fma(Vs x, V y, Vs z) { return {fma(x.a, y, z.a), fma(x.b, y, z.b), fma(x.c, y, z.c), fma(x.d, y, z.d)}; }
inline Vs fnma(Vs x, Vs y, Vs z) {
    return {fnma(x.a, y.a, z.a), fnma(x.b, y.b, z.b), fnma(x.c, y.c, z.c), fnma(x.d, y.d, z.d)};
}
inline Vs fnma(Vs x, V y, Vs z) { return {fnma(x.a, y, z.a), fnma(x.b, y, z.b), fnma(x.c, y, z.c), fnma(x.d, y, z.d)}; }
inline Vs max(Vs x, Vs y) { return {max(x.a, y.a), max(x.b, y.b), max(x.c, y.c), max(x.d, y.d)}; }
inline Vs min(Vs x, Vs y) { return {min(x.a, y.a), min(x.b, y.b), min(x.c, y.c), min(x.d, y.d)}; }
inline V across(Vs x) { return (x.a + x.b) + (x.c + x.d); }

// f of each vector.
template <class F>
inline void for_each(V x, F f) {
    f(x);
}
template <class F>
inline void for_each(Vs x, F f) {
    f(x.a), f(x.b), f(x.c), f(x.d);
}

// Where a kernel is in a row: `lanes` lanes of one vector from j on, or all of four. 16-bit elements of four vectors
// come mixed (simd.h) unless `kInOrder`: what has FP32 elements of the caller's at the same places needs their order;
// rows of one type do not, nor FP32 rows of the kernel's own that are only used through At<Vs> from the same j on.
template <class X, bool kInOrder = false>
struct At;
template <bool kInOrder>
struct At<V, kInOrder> {
    int64_t j;
    int lanes;
    template <class T>
    V load(const T* p) const {
        return lanes == V::N ? V::load(p + j) : V::load_n(p + j, lanes);
    }
    template <class T>
    void store(V x, T* p) const {
        if (lanes == V::N) {
            x.store(p + j);
        } else {
            x.store_n(p + j, lanes);
        }
    }
    // x, with `fill` in the lanes beyond the row.
    V fill(V x, float fill) const { return lanes == V::N ? x : first_n(x, lanes, fill); }
};
template <bool kInOrder>
struct At<Vs, kInOrder> {
    int64_t j;
    template <class T>
    JPLLM_INLINE Vs load(const T* p) const {
        if (kInOrder) return Vs::load(p + j);
        Vs x;
        load_mixed(p + j, x.a, x.b), load_mixed(p + j + 2 * V::N, x.c, x.d);
        return x;
    }
    template <class T>
    JPLLM_INLINE void store(const Vs& x, T* p) const {
        if (kInOrder) return x.store(p + j);
        store_mixed(p + j, x.a, x.b), store_mixed(p + j + 2 * V::N, x.c, x.d);
    }
    template <class T>
    JPLLM_INLINE void stream(const Vs& x, T* p) const {
        if (kInOrder) return x.stream(p + j);
        stream_mixed(p + j, x.a, x.b), stream_mixed(p + j + 2 * V::N, x.c, x.d);
    }
    JPLLM_INLINE Vs fill(const Vs& x, float) const { return x; }
};

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
