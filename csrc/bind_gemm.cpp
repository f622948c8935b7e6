// Matrix products: bindings. Letters: M rows, N columns, K summed dimension.
#include "arrays.h"

namespace {

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

}  // namespace

void bind_gemm(py::module_& m) {
    using namespace py::literals;
    m.def("gemm", &gemm, "c (+)= a @ b + bias", "a"_a, "b"_a, "c"_a, "bias"_a, "accumulate"_a, "threads"_a);
    m.def("column_sum", &column_sum, "x"_a, "out"_a, "threads"_a);
}
