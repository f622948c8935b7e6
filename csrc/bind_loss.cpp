// The loss: bindings. Letters: N tokens, D width, V vocabulary.
#include "arrays.h"

namespace {

void check_logsumexp(const char* op, const Array& hidden, const Array& weight, const Array& targets) {
    same(op, "the columns of hidden and of weight", hidden.cols(), weight.cols());
    same(op, "the rows of hidden and the size of targets", hidden.rows(), targets.rows());
    contiguous(targets);
    if (weight.rows() == 0) fail(op, "weight has no rows: the vocabulary is empty");
}

void linear_logsumexp(const py::tuple& hidden_t, const py::tuple& weight_t, const py::tuple& targets_t,
                      const py::tuple& lse_t, const py::tuple& target_logit_t, int threads) {
    const char* op = "linear_logsumexp";
    const Array hidden = take(op, "hidden", hidden_t, 2), weight = take(op, "weight", weight_t, 2);
    const Array targets = take(op, "targets", targets_t, 1, "int64", 8), lse = take(op, "lse", lse_t, 1);
    const Array target_logit = take(op, "target_logit", target_logit_t, 1);
    check_logsumexp(op, hidden, weight, targets);
    for (const Array* a : {&lse, &target_logit}) {
        same(op, "the rows of hidden and the size of an output", hidden.rows(), a->rows());
        contiguous(*a);
    }
    run(op, [&] {
        return jpllm_linear_logsumexp(JPLLM_FP32, hidden.rows(), weight.rows(), hidden.cols(), hidden.data(),
                                      hidden.stride[0], hidden.stride[1], weight.data(), weight.stride[0],
                                      weight.stride[1], static_cast<const std::int64_t*>(targets.data()), lse.data(),
                                      target_logit.data(), threads);
    });
}

void linear_logsumexp_backward(const py::tuple& hidden_t, const py::tuple& weight_t, const py::tuple& targets_t,
                               const py::tuple& lse_t, const py::tuple& dlse_t, const py::tuple& dtarget_t,
                               const py::object& dhidden_t, const py::object& dweight_t, int threads) {
    const char* op = "linear_logsumexp_backward";
    const Array hidden = take(op, "hidden", hidden_t, 2), weight = take(op, "weight", weight_t, 2);
    const Array targets = take(op, "targets", targets_t, 1, "int64", 8), lse = take(op, "lse", lse_t, 1);
    const Array dlse = take(op, "dlse", dlse_t, 1), dtarget = take(op, "dtarget_logit", dtarget_t, 1);
    check_logsumexp(op, hidden, weight, targets);
    for (const Array* a : {&lse, &dlse, &dtarget}) {
        same(op, "the rows of hidden and the size of lse or a gradient", hidden.rows(), a->rows());
        contiguous(*a);
    }
    void *dhidden = nullptr, *dweight = nullptr;
    if (!dhidden_t.is_none()) {
        const Array a = take(op, "dhidden", dhidden_t, 2);
        same(op, "the rows of hidden and of dhidden", hidden.rows(), a.rows());
        same(op, "the columns of hidden and of dhidden", hidden.cols(), a.cols());
        contiguous(a);
        dhidden = a.data();
    }
    if (!dweight_t.is_none()) {
        const Array a = take(op, "dweight", dweight_t, 2);
        same(op, "the rows of weight and of dweight", weight.rows(), a.rows());
        same(op, "the columns of weight and of dweight", weight.cols(), a.cols());
        contiguous(a);
        dweight = a.data();
    }
    run(op, [&] {
        return jpllm_linear_logsumexp_backward(JPLLM_FP32, hidden.rows(), weight.rows(), hidden.cols(), hidden.data(),
                                               hidden.stride[0], hidden.stride[1], weight.data(), weight.stride[0],
                                               weight.stride[1], static_cast<const std::int64_t*>(targets.data()),
                                               lse.data(), dlse.data(), dtarget.data(), dhidden, dweight, threads);
    });
}

}  // namespace

void bind_loss(py::module_& m) {
    using namespace py::literals;
    m.def("linear_logsumexp", &linear_logsumexp, "hidden"_a, "weight"_a, "targets"_a, "lse"_a, "target_logit"_a,
          "threads"_a);
    m.def("linear_logsumexp_backward", &linear_logsumexp_backward, "hidden"_a, "weight"_a, "targets"_a, "lse"_a,
          "dlse"_a, "dtarget_logit"_a, "dhidden"_a, "dweight"_a, "threads"_a);
}
