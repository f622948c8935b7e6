// Matrices by their rows, and what a kernel returns. Units and api.cpp files include it.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace jpllm {

// What a kernel returns besides 0 for success and 1 where there is no memory for the work space.
constexpr int kBadIndex = 2;

// A matrix of a call's storage type: row i begins `stride` elements after row i - 1.
struct In {
    const void* data;
    int64_t stride;
};
struct Out {
    void* data;
    int64_t stride;
};
template <class T>
inline const T* row(In a, int64_t i) {
    return static_cast<const T*>(a.data) + i * a.stride;
}
template <class T>
inline T* row(Out a, int64_t i) {
    return static_cast<T*>(a.data) + i * a.stride;
}

}  // namespace jpllm
