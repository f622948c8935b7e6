// The loss: bindings. Letters: N tokens, D width, V vocabulary.
#include "arrays.h"

namespace {

// The hidden states and the weights of a head, of one storage type.
struct Head {
    const char* op;
    Array hidden, weight, targets;
    jpllm_dtype dtype;
    jpllm_math math;
    int chunk;

    Head(const char* name, const py::tuple& hidden_t, const py::tuple& weight_t, const py::tuple& targets_t,
         const std::string& math_name, int math_chunk)
        : op(name),
          hidden(take_storage(op, "hidden", hidden_t, 2)),
          weight(take_storage(op, "weight", weight_t, 2, &hidden)),
          targets(take(op, "targets", targets_t, 1, "int64", 8)),
          dtype(dtype_of(hidden)),
          math(math_of(op, math_name, math_chunk, dtype == JPLLM_FP16, "hidden and weight")),
          chunk(math_chunk) {
        same(op, "the columns of hidden and of weight", hidden.cols(), weight.cols());
        same(op, "the rows of hidden and the size of targets", hidden.rows(), targets.rows());
        contiguous(targets);
        if (weight.rows() == 0) fail(op, "weight has no rows: the vocabulary is empty");
    }

    const std::int64_t* target() const { return static_cast<const std::int64_t*>(targets.data()); }
    // One FP32 number a token.
    float* of_tokens(const char* name, const py::tuple& from) const {
        const Array a = take(op, name, from, 1);
        same(op, (std::string("the rows of hidden and the size of ") + name).c_str(), hidden.rows(), a.rows());
        contiguous(a);
        return static_cast<float*>(a.data());
    }
    // Gradients are contiguous; None for one that is not wanted.
    void* dhidden(const py::object& from) const {
        return from.is_none() ? nullptr : shaped_as(hidden, take_storage(op, "dhidden", from, 2, &hidden));
    }
    float* dweight(const py::object& from) const {
        return from.is_none() ? nullptr : static_cast<float*>(shaped_as(weight, take(op, "dweight", from, 2)));
    }
    void* shaped_as(const Array& like, const Array& a) const {
        same(op, (std::string("the rows of ") + like.name + " and of " + a.name).c_str(), like.rows(), a.rows());
        same(op, (std::string("the columns of ") + like.name + " and of " + a.name).c_str(), like.cols(), a.cols());
        contiguous(a);
        return a.data();
    }
};

void linear_logsumexp(const py::tuple& hidden_t, const py::tuple& weight_t, const py::tuple& targets_t,
                      const py::tuple& lse_t, const py::tuple& target_logit_t, int threads, const std::string& math,
                      int math_chunk) {
    const Head h("linear_logsumexp", hidden_t, weight_t, targets_t, math, math_chunk);
    float *lse = h.of_tokens("lse", lse_t), *target_logit = h.of_tokens("target_logit", target_logit_t);
    run(h.op, [&] {
        return jpllm_linear_logsumexp(h.dtype, h.hidden.rows(), h.weight.rows(), h.hidden.cols(), h.hidden.data(),
                                      h.hidden.stride[0], h.hidden.stride[1], h.weight.data(), h.weight.stride[0],
                                      h.weight.stride[1], h.target(), lse, target_logit, h.math, h.chunk, threads);
    });
}

void linear_logsumexp_backward(const py::tuple& hidden_t, const py::tuple& weight_t, const py::tuple& targets_t,
                               const py::tuple& lse_t, const py::tuple& dlse_t, const py::tuple& dtarget_t,
                               const py::object& dhidden_t, const py::object& dweight_t, int threads,
                               const std::string& math, int math_chunk) {
    const Head h("linear_logsumexp_backward", hidden_t, weight_t, targets_t, math, math_chunk);
    const float *lse = h.of_tokens("lse", lse_t), *dlse = h.of_tokens("dlse", dlse_t);
    const float* dtarget = h.of_tokens("dtarget_logit", dtarget_t);
    void* dhidden = h.dhidden(dhidden_t);
    float* dweight = h.dweight(dweight_t);
    run(h.op, [&] {
        return jpllm_linear_logsumexp_backward(h.dtype, h.hidden.rows(), h.weight.rows(), h.hidden.cols(),
                                               h.hidden.data(), h.hidden.stride[0], h.hidden.stride[1], h.weight.data(),
                                               h.weight.stride[0], h.weight.stride[1], h.target(), lse, dlse, dtarget,
                                               dhidden, dweight, h.math, h.chunk, threads);
    });
}

// Returns the loss and the z-loss.
std::pair<double, double> linear_cross_entropy(const py::tuple& hidden_t, const py::tuple& weight_t,
                                               const py::tuple& targets_t, double z_loss, const py::object& dhidden_t,
                                               const py::object& dweight_t, int threads, const std::string& math,
                                               int math_chunk) {
    const Head h("linear_cross_entropy", hidden_t, weight_t, targets_t, math, math_chunk);
    void* dhidden = h.dhidden(dhidden_t);
    float* dweight = h.dweight(dweight_t);
    double sums[2] = {0, 0};
    run(h.op, [&] {
        return jpllm_linear_cross_entropy(h.dtype, h.hidden.rows(), h.weight.rows(), h.hidden.cols(), h.hidden.data(),
                                          h.hidden.stride[0], h.hidden.stride[1], h.weight.data(), h.weight.stride[0],
                                          h.weight.stride[1], h.target(), z_loss, sums, dhidden, dweight, h.math,
                                          h.chunk, threads);
    });
    return {sums[0], sums[1]};
}

}  // namespace

void bind_loss(py::module_& m) {
    using namespace py::literals;
    m.def("linear_logsumexp", &linear_logsumexp, "hidden"_a, "weight"_a, "targets"_a, "lse"_a, "target_logit"_a,
          "threads"_a, "math"_a = "exact", "math_chunk"_a = 32);
    m.def("linear_logsumexp_backward", &linear_logsumexp_backward, "hidden"_a, "weight"_a, "targets"_a, "lse"_a,
          "dlse"_a, "dtarget_logit"_a, "dhidden"_a, "dweight"_a, "threads"_a, "math"_a = "exact", "math_chunk"_a = 32);
    m.def("linear_cross_entropy", &linear_cross_entropy, "Loss and z-loss; their gradients are made on the way.",
          "hidden"_a, "weight"_a, "targets"_a, "z_loss"_a, "dhidden"_a, "dweight"_a, "threads"_a, "math"_a = "exact",
          "math_chunk"_a = 32);
}
