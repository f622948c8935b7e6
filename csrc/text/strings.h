// How text crosses into pyjpllm._text: as code points, widened from the string's own array (1, 2 or 4 bytes a
// character). No UTF-8 is made, which CPython would keep with the string as long as that lives.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "text/codes.h"

namespace py = pybind11;

// A string's code points, in a buffer that the thread keeps between calls: valid until the thread takes the next one.
// The caller holds the interpreter lock; what is done with the result needs none.
inline jpllm::text::Codes codes_of(const py::str& text, std::vector<jpllm::text::Code>& into) {
    PyObject* object = text.ptr();
    const auto size = static_cast<std::size_t>(PyUnicode_GET_LENGTH(object));
    if (into.size() < size) into.resize(size);
    const void* data = PyUnicode_DATA(object);
    switch (PyUnicode_KIND(object)) {
        case PyUnicode_1BYTE_KIND:
            std::copy_n(static_cast<const Py_UCS1*>(data), size, into.data());
            break;
        case PyUnicode_2BYTE_KIND:
            std::copy_n(static_cast<const Py_UCS2*>(data), size, into.data());
            break;
        default:
            std::copy_n(static_cast<const Py_UCS4*>(data), size, into.data());
    }
    return {into.data(), size};
}

// The same, owned by the caller: for short strings that are kept, such as the words of a list.
inline std::vector<jpllm::text::Code> owned_codes(const py::str& text) {
    std::vector<jpllm::text::Code> out;
    const std::size_t size = codes_of(text, out).size;
    out.resize(size);
    return out;
}

// Each adds a family of functions to the module.
void bind_language_model(py::module_& m);
void bind_linear(py::module_& m);
void bind_lists(py::module_& m);
void bind_measures(py::module_& m);
void bind_minhash(py::module_& m);
void bind_sudachi(py::module_& m);
