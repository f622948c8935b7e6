// A language model over characters: bindings.
#include <cstring>

#include "strings.h"
#include "text/language_model.h"

namespace {

using jpllm::text::Slot;
template <class T>
using Array = py::array_t<T, py::array::c_style>;

std::size_t checked_order(py::ssize_t order) {
    if (order < 1 || order > static_cast<py::ssize_t>(jpllm::text::kLongestOrder)) {
        throw py::value_error("order must lie between 1 and " + std::to_string(jpllm::text::kLongestOrder));
    }
    return static_cast<std::size_t>(order);
}

Array<double> log2_probabilities(const py::list& texts, const Array<std::uint64_t>& slots, py::ssize_t order,
                                 double backoff) {
    unsigned bits = 1;
    if (slots.ndim() != 2 || slots.shape(1) != 2) throw py::value_error("slots must have the shape (slots, 2)");
    while (bits < 40 && (py::ssize_t{1} << bits) < slots.shape(0)) ++bits;
    if ((py::ssize_t{1} << bits) != slots.shape(0)) throw py::value_error("slots: their number must be a power of two");
    if (!(backoff >= 0 && backoff <= 1)) throw py::value_error("backoff must lie between 0 and 1");
    const jpllm::text::LanguageModel model{reinterpret_cast<const Slot*>(slots.data()), bits, checked_order(order),
                                           backoff};
    Array<double> out(static_cast<py::ssize_t>(texts.size()));
    double* const to = out.mutable_data();
    std::vector<jpllm::text::Code> codes;
    for (std::size_t i = 0; i < texts.size(); ++i) {
        const py::object text = texts[i];
        if (!PyUnicode_Check(text.ptr())) throw py::type_error("texts: every item must be a str");
        const jpllm::text::Codes part = codes_of(py::reinterpret_borrow<py::str>(text), codes);
        const py::gil_scoped_release release;
        to[i] = jpllm::text::log2_probability(part, model);
    }
    return out;
}

// Counts from one thread at a time.
class NgramCounter {
public:
    explicit NgramCounter(py::ssize_t order) : counter_(checked_order(order)) {}

    void add(const py::str& text) {
        std::vector<jpllm::text::Code> codes;
        codes.swap(codes_);
        const jpllm::text::Codes all = codes_of(text, codes);
        if (!counter_.add(all)) {
            PyErr_SetString(PyExc_OverflowError, "NgramCounter: more than 2^32 characters or n-grams");
            throw py::error_already_set();
        }
        codes_.swap(codes);
    }

    py::tuple table(std::uint32_t min_count) const {
        std::size_t kept = 0;
        double backoff = 1;
        const std::vector<Slot> slots = counter_.table(min_count, kept, backoff);
        Array<std::uint64_t> out({static_cast<py::ssize_t>(slots.size()), static_cast<py::ssize_t>(2)});
        std::memcpy(out.mutable_data(), slots.data(), slots.size() * sizeof(Slot));
        return py::make_tuple(out, kept, backoff);
    }

    const jpllm::text::NgramCounter& counter() const { return counter_; }

private:
    jpllm::text::NgramCounter counter_;
    std::vector<jpllm::text::Code> codes_;
};

}  // namespace

void bind_language_model(py::module_& m) {
    using namespace py::literals;
    m.def("log2_probabilities", &log2_probabilities,
          "log2 of the probability of each text; kernels/text/language_model.h has the model and its slots.", "texts"_a,
          "slots"_a, "order"_a, "backoff"_a);
    py::class_<NgramCounter>(m, "NgramCounter", "Counts character n-grams, and makes the table of a language model.")
        .def(py::init<py::ssize_t>(), "order"_a)
        .def("add", &NgramCounter::add, "Count a text. Raises OverflowError where a counter could not hold it.",
             "text"_a)
        .def_property_readonly(
            "grams", [](const NgramCounter& self) { return self.counter().grams(); }, "Different n-grams so far.")
        .def_property_readonly(
            "characters", [](const NgramCounter& self) { return self.counter().characters(); }, "Characters so far.")
        .def_property_readonly(
            "bytes", [](const NgramCounter& self) { return self.counter().bytes(); }, "Memory held.")
        .def("table", &NgramCounter::table,
             "(slots [n, 2] of 64 bits, n-grams in them, what the empty context leaves) of the n-grams that occur "
             "min_count times and of all of one and two characters.",
             "min_count"_a);
}
