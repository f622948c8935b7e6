// A linear model over hashed character n-grams: bindings.
#include "strings.h"
#include "text/linear.h"

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

struct Shape {
    unsigned bits;
    std::size_t outputs;
};

Shape shape_of(const Array<float>& weights, const Array<double>& bias, py::ssize_t most) {
    if (weights.ndim() != 2 || bias.ndim() != 1 || weights.shape(1) < 1 || weights.shape(1) != bias.shape(0)) {
        throw py::value_error("weights must have the shape (buckets, outputs), bias (outputs,)");
    }
    unsigned bits = 1;
    while (bits < 32 && (py::ssize_t{1} << bits) < weights.shape(0)) ++bits;
    if ((py::ssize_t{1} << bits) != weights.shape(0)) {
        throw py::value_error("weights: the number of buckets must be a power of two from 2 to 2^32");
    }
    if (most < 1) throw py::value_error("most must be at least 1");
    return {bits, static_cast<std::size_t>(weights.shape(1))};
}

// Calls use(i, buckets of text i) for each text, without the interpreter lock.
template <class Use>
void each_text(const py::list& texts, std::size_t most, unsigned bits, Use use) {
    std::vector<jpllm::text::Code> codes;
    std::vector<std::uint32_t> grams;
    for (std::size_t i = 0; i < texts.size(); ++i) {
        const py::object text = texts[i];
        if (!PyUnicode_Check(text.ptr())) throw py::type_error("texts: every item must be a str");
        const jpllm::text::Codes part = codes_of(py::reinterpret_borrow<py::str>(text), codes);
        const py::gil_scoped_release release;
        jpllm::text::buckets(part, most, bits, grams);
        use(i, grams);
    }
}

Array<double> linear_scores(const py::list& texts, const Array<float>& weights, const Array<double>& bias,
                            py::ssize_t most) {
    const Shape shape = shape_of(weights, bias, most);
    Array<double> out({static_cast<py::ssize_t>(texts.size()), static_cast<py::ssize_t>(shape.outputs)});
    double* const to = out.mutable_data();
    const float* const from = weights.data();
    const double* const shift = bias.data();
    each_text(texts, static_cast<std::size_t>(most), shape.bits,
              [&](std::size_t i, const std::vector<std::uint32_t>& grams) {
                  jpllm::text::linear_scores(grams, from, shift, shape.outputs, to + i * shape.outputs);
              });
    return out;
}

double linear_train(const py::list& texts, const Array<std::int32_t>& labels, Array<float>& weights,
                    Array<float>& squares, Array<double>& bias, Array<double>& bias_squares, py::ssize_t most,
                    double rate) {
    const Shape shape = shape_of(weights, bias, most);
    if (squares.ndim() != 2 || squares.shape(0) != weights.shape(0) || squares.shape(1) != weights.shape(1) ||
        bias_squares.ndim() != 1 || bias_squares.size() != bias.size()) {
        throw py::value_error("squares and bias_squares must have the shapes of weights and bias");
    }
    if (labels.ndim() != 1 || static_cast<std::size_t>(labels.size()) != texts.size()) {
        throw py::value_error("labels must have one number for each text");
    }
    const std::int32_t most_label = shape.outputs == 1 ? 2 : static_cast<std::int32_t>(shape.outputs);
    for (py::ssize_t i = 0; i < labels.size(); ++i) {
        if (labels.data()[i] < 0 || labels.data()[i] >= most_label) {
            throw py::value_error("labels must lie between 0 and " + std::to_string(most_label - 1));
        }
    }
    const jpllm::text::Linear model{weights.mutable_data(), squares.mutable_data(), bias.mutable_data(),
                                    bias_squares.mutable_data(), shape.outputs};
    const std::int32_t* const label = labels.data();
    std::vector<double> scores;
    double loss = 0;
    each_text(texts, static_cast<std::size_t>(most), shape.bits,
              [&](std::size_t i, const std::vector<std::uint32_t>& grams) {
                  loss += jpllm::text::linear_step(grams, static_cast<std::size_t>(label[i]), rate, model, scores);
              });
    return loss;
}

}  // namespace

void bind_linear(py::module_& m) {
    using namespace py::literals;
    m.def("linear_scores", &linear_scores,
          "Scores [texts, outputs] of a linear model over hashed character n-grams; kernels/text/linear.h.", "texts"_a,
          "weights"_a, "bias"_a, "most"_a);
    m.def("linear_train", &linear_train,
          "One pass of AdaGrad over texts in their order; changes the four arrays, gives the sum of the losses.",
          "texts"_a, "labels"_a, py::arg("weights").noconvert(), py::arg("squares").noconvert(),
          py::arg("bias").noconvert(), py::arg("bias_squares").noconvert(), "most"_a, "rate"_a);
}
