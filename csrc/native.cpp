// The Python module pyjpllm._native: checks arguments, lets go of the interpreter lock, calls the kernels.
//
// An array comes as a tuple (address, shape, stride in elements, dtype name, owner), so that a torch tensor and a NumPy
// array are the same to this module and no torch header is needed; the owner is any object that keeps the memory alive.
// A fault in the arguments is a ValueError that names the operation and the array. Letters: M rows, N columns or
// tokens, K summed dimension, D width, V vocabulary.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jpllm_kernels.h"

namespace py = pybind11;

namespace {

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

std::string text(const std::vector<std::int64_t>& numbers) {
    std::string out = "(";
    for (std::size_t i = 0; i < numbers.size(); ++i) out += (i ? ", " : "") + std::to_string(numbers[i]);
    return out + ")";
}

[[noreturn]] void fail(const char* op, const std::string& what) {
    throw py::value_error(std::string(op) + ": " + what);
}

std::vector<std::int64_t> numbers(const char* op, const char* name, const py::handle& from) {
    std::vector<std::int64_t> out;
    for (const py::handle item : py::reinterpret_borrow<py::sequence>(from)) out.push_back(item.cast<std::int64_t>());
    if (out.size() > 8) fail(op, std::string(name) + " has more than 8 dimensions");
    return out;
}

// Reads and checks a tuple: the number of dimensions, sizes not negative, the dtype, the alignment.
Array take(const char* op, const char* name, const py::handle& from, std::size_t dims, const char* dtype = "float32",
           std::size_t element = 4) {
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

void same(const char* op, const char* what, std::int64_t a, std::int64_t b) {
    if (a != b) fail(op, std::string(what) + " differ: " + std::to_string(a) + " and " + std::to_string(b));
}

// The kernel walks rows by stride, a row's elements lie side by side.
void contiguous_rows(const Array& a) {
    if (!a.empty() && a.shape.back() > 1 && a.stride.back() != 1) {
        fail(a.op, std::string(a.name) + " must have its last dimension contiguous, has stride " + text(a.stride));
    }
}

void contiguous(const Array& a) {
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
    if (status != JPLLM_OK) fail(op, jpllm_status_string(status));
}

void gemm(const py::tuple& a_t, const py::tuple& b_t, const py::tuple& c_t, const py::object& bias_t, bool accumulate,
          int threads) {
    const char* op = "gemm";
    const Array a = take(op, "a", a_t, 2), b = take(op, "b", b_t, 2), c = take(op, "c", c_t, 2);
    same(op, "the columns of a and the rows of b", a.cols(), b.rows());
    same(op, "the rows of a and of c", a.rows(), c.rows());
    same(op, "the columns of b and of c", b.cols(), c.cols());
    const void* bias = nullptr;
    if (!bias_t.is_none()) {
        const Array x = take(op, "bias", bias_t, 1);
        same(op, "the columns of c and the size of bias", c.cols(), x.rows());
        contiguous(x);
        bias = x.data();
    }
    run(op, [&] {
        return jpllm_gemm(JPLLM_FP32, a.rows(), b.cols(), a.cols(), a.data(), a.stride[0], a.stride[1], b.data(),
                          b.stride[0], b.stride[1], c.data(), c.stride[0], c.stride[1], bias, accumulate, threads);
    });
}

void column_sum(const py::tuple& x_t, const py::tuple& out_t, int threads) {
    const char* op = "column_sum";
    const Array x = take(op, "x", x_t, 2), out = take(op, "out", out_t, 1);
    same(op, "the columns of x and the size of out", x.cols(), out.rows());
    contiguous_rows(x), contiguous(out);
    run(op,
        [&] { return jpllm_column_sum(JPLLM_FP32, x.rows(), x.cols(), x.data(), x.stride[0], out.data(), threads); });
}

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

std::vector<std::string> split(const char* from, char by) {
    std::vector<std::string> out;
    std::string word;
    for (const char* p = from;; ++p) {
        if (*p == by || *p == '\0') {
            if (!word.empty()) out.push_back(word);
            word.clear();
            if (*p == '\0') return out;
        } else {
            word += *p;
        }
    }
}

std::string cannot_use(const std::string& name) {
    return "this CPU or build has no '" + name + "'; it has " + jpllm_isas() + " (built in: " + jpllm_isas_built() +
           ")";
}

void set_isa(const std::string& name) {
    if (jpllm_set_isa(name.c_str()) != JPLLM_OK) throw py::value_error("set_isa: " + cannot_use(name));
}

double fma_peak(double seconds, int threads) {
    double flops = 0;
    run("fma_peak", [&] { return jpllm_fma_peak(seconds, threads, &flops); });
    return flops;
}

py::dict build_info() {
    py::dict info;
    info["compiler"] = JPLLM_COMPILER;
    info["processor"] = JPLLM_PROCESSOR;
    info["isas_built"] = split(jpllm_isas_built(), ',');
    info["thread_runtime"] = jpllm_thread_runtime();
    info["openmp_runtimes"] = split(jpllm_openmp_runtimes(), '\n');
    info["default_threads"] = jpllm_default_threads();
    return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "pyjpllm's compute kernels. An array is a tuple (address, shape, stride in elements, dtype name, owner).";
    if (jpllm_isa() == nullptr) {
        throw py::import_error("JPLLM_ISA: " + cannot_use(std::getenv("JPLLM_ISA")));
    }
    using namespace py::literals;
    m.def("gemm", &gemm, "c (+)= a @ b + bias", "a"_a, "b"_a, "c"_a, "bias"_a, "accumulate"_a, "threads"_a);
    m.def("column_sum", &column_sum, "x"_a, "out"_a, "threads"_a);
    m.def("rms_norm", &rms_norm, "x"_a, "weight"_a, "eps"_a, "y"_a, "rstd"_a, "threads"_a);
    m.def("rms_norm_backward", &rms_norm_backward, "dy"_a, "x"_a, "weight"_a, "rstd"_a, "dx"_a, "dweight"_a,
          "threads"_a);
    m.def("swiglu", &swiglu, "gate"_a, "up"_a, "y"_a, "threads"_a);
    m.def("swiglu_backward", &swiglu_backward, "dy"_a, "gate"_a, "up"_a, "dgate"_a, "dup"_a, "threads"_a);
    m.def("linear_logsumexp", &linear_logsumexp, "hidden"_a, "weight"_a, "targets"_a, "lse"_a, "target_logit"_a,
          "threads"_a);
    m.def("linear_logsumexp_backward", &linear_logsumexp_backward, "hidden"_a, "weight"_a, "targets"_a, "lse"_a,
          "dlse"_a, "dtarget_logit"_a, "dhidden"_a, "dweight"_a, "threads"_a);
    m.def("adamw_step", &adamw_step, "param"_a, "grad"_a, "exp_avg"_a, "exp_avg_sq"_a, "model_param"_a, "lr"_a,
          "beta1"_a, "beta2"_a, "eps"_a, "weight_decay"_a, "step"_a, "grad_scale"_a, "threads"_a);
    m.def("isa", [] { return std::string(jpllm_isa()); }, "The instruction set in use.");
    m.def("isas", [] { return split(jpllm_isas(), ','); }, "Those of this build that this CPU runs, best first.");
    m.def("set_isa", &set_isa, "Use this instruction set from now on; '' chooses as at load.", "name"_a);
    m.def("build_info", &build_info, "Compiler, instruction sets, thread runtime.");
    m.def("fma_peak", &fma_peak, "FP32 multiply-add peak in flop a second of CPU time, summed over the threads.",
          "seconds"_a = 0.2, "threads"_a = 1);
}
