// Measures of a text: bindings.
#include "strings.h"
#include "text/classes.h"

namespace {

int character_class(std::uint32_t code) {
    if (code > 0x10FFFF) throw py::value_error("character_class: code must be at most 0x10ffff");
    return jpllm::text::class_table()[code];
}

}  // namespace

void bind_measures(py::module_& m) {
    using namespace py::literals;
    m.def("character_class", &character_class, "The classes of a code point as bits; kernels/text/classes.h has them.",
          "code"_a);
}
