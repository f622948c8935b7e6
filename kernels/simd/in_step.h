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
    static Vs load(const T* p) {
        return {V::load(p), V::load(p + V::N), V::load(p + 2 * V::N), V::load(p + 3 * V::N)};
    }
    template <class T>
    void store(T* p) const {
        a.store(p), b.store(p + V::N), c.store(p + 2 * V::N), d.store(p + 3 * V::N);
    }
    template <class T>
    void stream(T* p) const {
        a.stream(p), b.stream(p + V::N), c.stream(p + 2 * V::N), d.stream(p + 3 * V::N);
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

// Where a kernel is in a row: `lanes` lanes of one vector from j on, or all of four.
template <class X>
struct At;
template <>
struct At<V> {
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
};
template <>
struct At<Vs> {
    int64_t j;
    template <class T>
    Vs load(const T* p) const {
        return Vs::load(p + j);
    }
    template <class T>
    void store(Vs x, T* p) const {
        x.store(p + j);
    }
};

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
