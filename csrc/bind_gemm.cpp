// Matrix products: bindings. Letters: M rows, N columns, K summed dimension.
#include "arrays.h"

namespace {

jpllm_matrix matrix(const Array& x) { return {x.data(), x.stride[0], x.stride[1], dtype_of(x)}; }

// An operand [M,N] beside c, or none.
jpllm_matrix beside(const char* op, const char* name, const py::object& from, const Array& c) {
    if (from.is_none()) return {nullptr, 0, 0, JPLLM_FP32};
    const Array x = take_storage(op, name, from, 2);
    same(op, (std::string("the rows of c and of ") + name).c_str(), c.rows(), x.rows());
    same(op, (std::string("the columns of c and of ") + name).c_str(), c.cols(), x.cols());
    return matrix(x);
}

void gemm(const py::tuple& a_t, const py::tuple& b_t, const py::tuple& c_t, const py::object& bias_t, bool accumulate,
          int threads, const py::object& residual_t, const py::object& up_t, const py::object& gate_out_t,
          const py::object& up_out_t) {
    const char* op = "gemm";
    const Array a = take_storage(op, "a", a_t, 2), b = take_storage(op, "b", b_t, 2), c = take_storage(op, "c", c_t, 2);
    same(op, "the columns of a and the rows of b", a.cols(), b.rows());
    same(op, "the rows of a and of c", a.rows(), c.rows());
    same(op, "the columns of b and of c", b.cols(), c.cols());
    jpllm_gemm_args args{};
    args.m = a.rows(), args.n = b.cols(), args.k = a.cols();
    args.a = matrix(a), args.b = matrix(b), args.c = matrix(c);
    args.accumulate = accumulate;
    if (!bias_t.is_none()) {
        const Array x = take_storage(op, "bias", bias_t, 1);
        same(op, "the columns of c and the size of bias", c.cols(), x.rows());
        args.bias = {x.data(), 0, x.stride[0], dtype_of(x)};
    }
    args.residual = beside(op, "residual", residual_t, c);
    if (!up_t.is_none()) {
        const Array up = take_storage(op, "up", up_t, 2);
        same(op, "the rows of b and of up", b.rows(), up.rows());
        same(op, "the columns of b and of up", b.cols(), up.cols());
        args.up = matrix(up);
    }
    args.gate_out = beside(op, "gate_out", gate_out_t, c);
    args.up_out = beside(op, "up_out", up_out_t, c);
    run(op, [&] { return jpllm_gemm_with(&args, threads); });
}

void column_sum(const py::tuple& x_t, const py::tuple& out_t, int threads) {
    const char* op = "column_sum";
    const Array x = take_storage(op, "x", x_t, 2), out = take(op, "out", out_t, 1);
    same(op, "the columns of x and the size of out", x.cols(), out.rows());
    contiguous_rows(x), contiguous(out);
    run(op, [&] {
        return jpllm_column_sum(dtype_of(x), x.rows(), x.cols(), x.data(), x.stride[0], static_cast<float*>(out.data()),
                                threads);
    });
}

}  // namespace

void bind_gemm(py::module_& m) {
    using namespace py::literals;
    m.def("gemm", &gemm, "c (+)= a @ b + bias + residual, or silu(a @ b) * (a @ up) + ...", "a"_a, "b"_a, "c"_a,
          "bias"_a, "accumulate"_a, "threads"_a, "residual"_a = py::none(), "up"_a = py::none(),
          "gate_out"_a = py::none(), "up_out"_a = py::none());
    m.def("column_sum", &column_sum, "x"_a, "out"_a, "threads"_a);
}
