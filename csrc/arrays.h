// What the bindings share: arrays as tuples, their checks, the call without the interpreter lock.
//
// An array comes as a tuple (address, shape, stride in elements, dtype name, owner), so that a torch tensor and a NumPy
// array are the same to this module and no torch header is needed; the owner is any object that keeps the memory alive.
// A fault in the arguments is a ValueError that names the operation and the array.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "jpllm_kernels.h"

namespace py = pybind11;

struct Array {
    const char* op;
    const char* name;
    std::uintptr_t address;
    std::vector<std::int64_t> shape, stride;
    std::string dtype;

    void* data() const { return reinterpret_cast<void*>(address); }
    std::int64_t rows() const { return shape[0]; }
    std::int64_t cols() const { return shape[1]; }
    bool empty() const { return std::find(shape.begin(), shape.end(), 0) != shape.end(); }
};

inline std::string text(const std::vector<std::int64_t>& numbers) {
    std::string out = "(";
    for (std::size_t i = 0; i < numbers.size(); ++i) out += (i ? ", " : "") + std::to_string(numbers[i]);
    return out + ")";
}

[[noreturn]] inline void fail(const char* op, const std::string& what) {
    throw py::value_error(std::string(op) + ": " + what);
}

inline std::vector<std::int64_t> numbers(const char* op, const char* name, const py::handle& from) {
    std::vector<std::int64_t> out;
    for (const py::handle item : py::reinterpret_borrow<py::sequence>(from)) out.push_back(item.cast<std::int64_t>());
    if (out.size() > 8) fail(op, std::string(name) + " has more than 8 dimensions");
    return out;
}

// Reads and checks a tuple: the number of dimensions, sizes not negative, the dtype, the alignment.
inline Array take(const char* op, const char* name, const py::handle& from, std::size_t dims,
                  const char* dtype = "float32", std::size_t element = 4) {
    if (!py::isinstance<py::tuple>(from) || py::len(from) != 5) {
        fail(op, std::string(name) + " must be a tuple (address, shape, stride, dtype, owner)");
    }
    const auto parts = py::reinterpret_borrow<py::tuple>(from);
    Array a{op,
            name,
            parts[0].cast<std::uintptr_t>(),
            numbers(op, name, parts[1]),
            numbers(op, name, parts[2]),
            parts[3].cast<std::string>()};
    if (a.shape.size() != dims || a.stride.size() != dims) {
        fail(op, std::string(name) + " must have " + std::to_string(dims) + " dimensions, has shape " + text(a.shape));
    }
    for (const std::int64_t size : a.shape) {
        if (size < 0) fail(op, std::string(name) + " has a negative size in shape " + text(a.shape));
    }
    if (a.dtype != dtype) fail(op, std::string(name) + " must be " + dtype + ", is " + a.dtype);
    if (!a.empty() && a.address == 0) fail(op, std::string(name) + " has no memory");
    if (a.address % element != 0) {
        fail(op, std::string(name) + " is not aligned to its " + std::to_string(element) + "-byte elements");
    }
    return a;
}

// A storage type: FP32, BF16 or FP16, or one alone where `like` says which.
inline Array take_storage(const char* op, const char* name, const py::handle& from, std::size_t dims,
                          const Array* like = nullptr) {
    std::string dtype = "float32";
    if (like != nullptr) {
        dtype = like->dtype;
    } else if (py::isinstance<py::tuple>(from) && py::len(from) == 5) {
        const auto given = py::reinterpret_borrow<py::tuple>(from)[3].cast<std::string>();
        if (given == "bfloat16" || given == "float16") dtype = given;
    }
    return take(op, name, from, dims, dtype.c_str(), dtype == "float32" ? 4 : 2);
}

inline jpllm_dtype dtype_of(const Array& a) {
    return a.dtype == "bfloat16" ? JPLLM_BF16 : a.dtype == "float16" ? JPLLM_FP16 : JPLLM_FP32;
}

// How products are summed; fp16-chunk is for operands, `taken`, of float16 alone. `known` are the names that op takes.
inline jpllm_math math_of(const char* op, const std::string& math, int chunk, bool all_fp16, const char* taken,
                          const char* known = "exact or fp16-chunk") {
    if (math == "exact") return JPLLM_MATH_EXACT;
    if (math != "fp16-chunk") fail(op, std::string("math must be ") + known + ", is " + math);
    if (chunk != 16 && chunk != 32 && chunk != 64 && chunk != 128) {
        fail(op, "math_chunk must be 16, 32, 64 or 128, is " + std::to_string(chunk));
    }
    if (!all_fp16) fail(op, std::string("math fp16-chunk takes float16 ") + taken + " alone");
    return JPLLM_MATH_FP16_CHUNK;
}

inline void same(const char* op, const char* what, std::int64_t a, std::int64_t b) {
    if (a != b) fail(op, std::string(what) + " differ: " + std::to_string(a) + " and " + std::to_string(b));
}

// The kernel walks rows by stride, a row's elements lie side by side.
inline void contiguous_rows(const Array& a) {
    if (!a.empty() && a.shape.back() > 1 && a.stride.back() != 1) {
        fail(a.op, std::string(a.name) + " must have its last dimension contiguous, has stride " + text(a.stride));
    }
}

inline void contiguous(const Array& a) {
    std::int64_t expected = 1;
    for (std::size_t i = a.shape.size(); i-- > 0;) {
        if (!a.empty() && a.shape[i] > 1 && a.stride[i] != expected) {
            fail(a.op, std::string(a.name) + " must be contiguous, has stride " + text(a.stride));
        }
        expected *= a.shape[i];
    }
}

template <class Call>
void run(const char* op, Call call) {
    jpllm_status status;
    {
        const py::gil_scoped_release unlocked;
        status = call();
    }
    if (status == JPLLM_ERR_MEMORY) throw std::bad_alloc();
    if (status == JPLLM_ERR_INDEX) throw py::index_error(std::string(op) + ": " + jpllm_status_string(status));
    if (status != JPLLM_OK) fail(op, jpllm_status_string(status));
}

// Each family's bindings; module.cpp calls them.
void bind_gemm(py::module_& m);
void bind_attention(py::module_& m);
void bind_fused(py::module_& m);
void bind_experts(py::module_& m);
void bind_loss(py::module_& m);
void bind_probe(py::module_& m);
