// Fused operations: bindings. Letters: M rows, N columns, D width.
#include "arrays.h"

namespace {

void rms_norm(const py::tuple& x_t, const py::tuple& weight_t, double eps, const py::tuple& y_t,
              const py::tuple& rstd_t, int threads) {
    const char* op = "rms_norm";
    const Array x = take(op, "x", x_t, 2), weight = take(op, "weight", weight_t, 1), y = take(op, "y", y_t, 2);
    const Array rstd = take(op, "rstd", rstd_t, 1);
    same(op, "the columns of x and the size of weight", x.cols(), weight.rows());
    same(op, "the rows of x and of y", x.rows(), y.rows());
    same(op, "the columns of x and of y", x.cols(), y.cols());
    same(op, "the rows of x and the size of rstd", x.rows(), rstd.rows());
    contiguous_rows(x), contiguous(weight), contiguous_rows(y), contiguous(rstd);
    run(op, [&] {
        return jpllm_rms_norm(JPLLM_FP32, x.rows(), x.cols(), x.data(), x.stride[0], weight.data(), eps, y.data(),
                              y.stride[0], rstd.data(), threads);
    });
}

void rms_norm_backward(const py::tuple& dy_t, const py::tuple& x_t, const py::tuple& weight_t, const py::tuple& rstd_t,
                       const py::tuple& dx_t, const py::tuple& dweight_t, int threads) {
    const char* op = "rms_norm_backward";
    const Array dy = take(op, "dy", dy_t, 2), x = take(op, "x", x_t, 2), weight = take(op, "weight", weight_t, 1);
    const Array rstd = take(op, "rstd", rstd_t, 1), dx = take(op, "dx", dx_t, 2);
    const Array dweight = take(op, "dweight", dweight_t, 1);
    for (const Array* other : {&dy, &dx}) {
        same(op, "the rows of x and of its gradients", x.rows(), other->rows());
        same(op, "the columns of x and of its gradients", x.cols(), other->cols());
        contiguous_rows(*other);
    }
    same(op, "the columns of x and the size of weight", x.cols(), weight.rows());
    same(op, "the columns of x and the size of dweight", x.cols(), dweight.rows());
    same(op, "the rows of x and the size of rstd", x.rows(), rstd.rows());
    contiguous_rows(x), contiguous(weight), contiguous(rstd), contiguous(dweight);
    run(op, [&] {
        return jpllm_rms_norm_backward(JPLLM_FP32, x.rows(), x.cols(), dy.data(), dy.stride[0], x.data(), x.stride[0],
                                       weight.data(), rstd.data(), dx.data(), dx.stride[0], dweight.data(), threads);
    });
}

void swiglu(const py::tuple& gate_t, const py::tuple& up_t, const py::tuple& y_t, int threads) {
    const char* op = "swiglu";
    const Array gate = take(op, "gate", gate_t, 2), up = take(op, "up", up_t, 2), y = take(op, "y", y_t, 2);
    for (const Array* a : {&up, &y}) {
        same(op, "the rows of gate, up and y", gate.rows(), a->rows());
        same(op, "the columns of gate, up and y", gate.cols(), a->cols());
    }
    contiguous_rows(gate), contiguous_rows(up), contiguous_rows(y);
    run(op, [&] {
        return jpllm_swiglu(JPLLM_FP32, gate.rows(), gate.cols(), gate.data(), gate.stride[0], up.data(), up.stride[0],
                            y.data(), y.stride[0], threads);
    });
}

void swiglu_backward(const py::tuple& dy_t, const py::tuple& gate_t, const py::tuple& up_t, const py::tuple& dgate_t,
                     const py::tuple& dup_t, int threads) {
    const char* op = "swiglu_backward";
    const Array gate = take(op, "gate", gate_t, 2), up = take(op, "up", up_t, 2), dy = take(op, "dy", dy_t, 2);
    const Array dgate = take(op, "dgate", dgate_t, 2), dup = take(op, "dup", dup_t, 2);
    for (const Array* a : {&dy, &up, &dgate, &dup}) {
        same(op, "the rows of gate, up and their gradients", gate.rows(), a->rows());
        same(op, "the columns of gate, up and their gradients", gate.cols(), a->cols());
        contiguous_rows(*a);
    }
    contiguous_rows(gate);
    run(op, [&] {
        return jpllm_swiglu_backward(JPLLM_FP32, gate.rows(), gate.cols(), dy.data(), dy.stride[0], gate.data(),
                                     gate.stride[0], up.data(), up.stride[0], dgate.data(), dgate.stride[0], dup.data(),
                                     dup.stride[0], threads);
    });
}

void adamw_step(const py::tuple& param_t, const py::tuple& grad_t, const py::tuple& exp_avg_t,
                const py::tuple& exp_avg_sq_t, const py::object& model_t, double lr, double beta1, double beta2,
                double eps, double weight_decay, std::int64_t step, double grad_scale, int threads) {
    const char* op = "adamw_step";
    const Array param = take(op, "param", param_t, 1), grad = take(op, "grad", grad_t, 1);
    const Array exp_avg = take(op, "exp_avg", exp_avg_t, 1), exp_avg_sq = take(op, "exp_avg_sq", exp_avg_sq_t, 1);
    contiguous(param);
    for (const Array* a : {&grad, &exp_avg, &exp_avg_sq}) {
        same(op, "the sizes of param, grad, exp_avg and exp_avg_sq", param.rows(), a->rows());
        contiguous(*a);
    }
    std::uint16_t* model = nullptr;
    if (!model_t.is_none()) {
        const Array a = take(op, "model_param", model_t, 1, "bfloat16", 2);
        same(op, "the sizes of param and model_param", param.rows(), a.rows());
        contiguous(a);
        model = static_cast<std::uint16_t*>(a.data());
    }
    if (step < 1) fail(op, "step counts from 1, is " + std::to_string(step));
    if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1)) fail(op, "beta1 and beta2 must be in [0, 1)");
    if (!(eps >= 0)) fail(op, "eps must not be negative");
    run(op, [&] {
        return jpllm_adamw_step(JPLLM_FP32, param.rows(), param.data(), grad.data(), exp_avg.data(), exp_avg_sq.data(),
                                model, lr, beta1, beta2, eps, weight_decay, step, grad_scale, threads);
    });
}

}  // namespace

void bind_fused(py::module_& m) {
    using namespace py::literals;
    m.def("rms_norm", &rms_norm, "x"_a, "weight"_a, "eps"_a, "y"_a, "rstd"_a, "threads"_a);
    m.def("rms_norm_backward", &rms_norm_backward, "dy"_a, "x"_a, "weight"_a, "rstd"_a, "dx"_a, "dweight"_a,
          "threads"_a);
    m.def("swiglu", &swiglu, "gate"_a, "up"_a, "y"_a, "threads"_a);
    m.def("swiglu_backward", &swiglu_backward, "dy"_a, "gate"_a, "up"_a, "dgate"_a, "dup"_a, "threads"_a);
    m.def("adamw_step", &adamw_step, "param"_a, "grad"_a, "exp_avg"_a, "exp_avg_sq"_a, "model_param"_a, "lr"_a,
          "beta1"_a, "beta2"_a, "eps"_a, "weight_decay"_a, "step"_a, "grad_scale"_a, "threads"_a);
}
