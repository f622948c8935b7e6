// Matrix products: bindings. Letters: M rows, N columns, K summed dimension.
#include <optional>

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

void set_math(const char* op, const std::string& math, int chunk, bool all_fp16, const char* taken,
              jpllm_gemm_args* args) {
    if (math == "int16") {
        args->math = JPLLM_MATH_INT16;
        return;
    }
    args->math = math_of(op, math, chunk, all_fp16, taken, "exact, fp16-chunk or int16"), args->math_chunk = chunk;
}

void set_math(const char* op, const std::string& math, int chunk, jpllm_gemm_args* args) {
    bool all_fp16 = true;
    for (const jpllm_matrix* x : {&args->a, &args->b, &args->up}) {
        all_fp16 = all_fp16 && (x->data == nullptr || x->dtype == JPLLM_FP16);
    }
    set_math(op, math, chunk, all_fp16, "a, b and up", args);
}

// What `packed` says b is packed as, from b and the type that a will have.
jpllm_gemm_args packing(const char* op, const py::tuple& b_t, const std::string& a_dtype, const std::string& math,
                        int math_chunk) {
    const Array b = take_storage(op, "b", b_t, 2);
    jpllm_gemm_args args{};
    args.n = b.cols(), args.k = b.rows(), args.b = matrix(b);
    if (a_dtype == "bfloat16") {
        args.a.dtype = JPLLM_BF16;
    } else if (a_dtype == "float16") {
        args.a.dtype = JPLLM_FP16;
    } else if (a_dtype != "float32") {
        fail(op, "a_dtype must be float32, bfloat16 or float16, is " + a_dtype);
    }
    set_math(op, math, math_chunk, args.a.dtype == JPLLM_FP16 && args.b.dtype == JPLLM_FP16, "a and b", &args);
    return args;
}

// The memory of a packed b, which must have the size for `args`.
void* packed_memory(const char* op, const py::object& packed_t, const jpllm_gemm_args& args) {
    const Array packed = take(op, "packed", packed_t, 1, "uint8", 64);
    contiguous(packed);
    same(op, "the bytes of packed and those that b takes", jpllm_gemm_packed_bytes(&args), packed.rows());
    return packed.data();
}

std::int64_t packed_bytes(const py::tuple& b_t, const std::string& a_dtype, const std::string& math, int math_chunk) {
    const jpllm_gemm_args args = packing("packed_bytes", b_t, a_dtype, math, math_chunk);
    return jpllm_gemm_packed_bytes(&args);
}

void pack(const py::tuple& b_t, const py::tuple& packed_t, const std::string& a_dtype, int threads,
          const std::string& math, int math_chunk) {
    const jpllm_gemm_args args = packing("pack", b_t, a_dtype, math, math_chunk);
    void* packed = packed_memory("pack", packed_t, args);
    run("pack", [&] { return jpllm_gemm_pack_b(&args, packed, threads); });
}

void gemm(const py::tuple& a_t, const py::tuple& b_t, const py::tuple& c_t, const py::object& bias_t, bool accumulate,
          int threads, const py::object& residual_t, const py::object& up_t, const py::object& gate_out_t,
          const py::object& up_out_t, const std::string& math, int math_chunk, const py::object& packed_t) {
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
    set_math(op, math, math_chunk, &args);
    if (!packed_t.is_none()) {
        if (args.up.data != nullptr) fail(op, "packed is for a product without up");
        args.packed_b = packed_memory(op, packed_t, args);
    }
    run(op, [&] { return jpllm_gemm_with(&args, threads); });
}

// c[g] = a[g] b[g] for each g, a matrix of those with three dimensions; of the others, where a dimension is ragged, the
// rows or columns that are group g's by `sizes`: rows of a and c, or, where c has three dimensions, columns of a and
// rows of b.
void grouped_gemm(const py::tuple& a_t, const py::tuple& b_t, const py::tuple& c_t,
                  const std::optional<std::vector<std::int64_t>>& sizes, int threads, const std::string& math,
                  int math_chunk) {
    const char* op = "grouped_gemm";
    const auto dims = [&](const py::tuple& t) { return py::len(t) == 5 && py::len(t[1]) == 3 ? 3u : 2u; };
    const Array a = take_storage(op, "a", a_t, dims(a_t)), b = take_storage(op, "b", b_t, dims(b_t));
    const Array c = take_storage(op, "c", c_t, dims(c_t));
    const bool whole = a.shape.size() == 3 && b.shape.size() == 3 && c.shape.size() == 3;
    const bool by_rows = a.shape.size() == 2 && b.shape.size() == 3 && c.shape.size() == 2;
    const bool by_k = a.shape.size() == 2 && b.shape.size() == 2 && c.shape.size() == 3;
    if (!(whole || by_rows || by_k) || whole == sizes.has_value()) {
        fail(op, "a, b and c must have 3, 3, 3 dimensions, or with sizes 2, 3, 2 or 2, 2, 3");
    }
    const auto rows = [](const Array& x) { return x.shape[x.shape.size() - 2]; };
    const auto cols = [](const Array& x) { return x.shape[x.shape.size() - 1]; };
    same(op, "the columns of a and the rows of b", cols(a), rows(b));
    same(op, "the rows of a and of c", rows(a), rows(c));
    same(op, "the columns of b and of c", cols(b), cols(c));
    const std::int64_t groups = sizes ? static_cast<std::int64_t>(sizes->size()) : c.shape[0];
    for (const Array* x : {&a, &b, &c}) {
        if (x->shape.size() == 3) same(op, "the numbers of groups", groups, x->shape[0]);
    }
    // The matrix of group g, or that from row `row` and column `col` on.
    const auto part = [](const Array& x, std::int64_t g, std::int64_t row, std::int64_t col) {
        const std::size_t last = x.stride.size() - 1;
        const std::int64_t rs = x.stride[last - 1], cs = x.stride[last];
        const std::int64_t offset = last == 2 ? g * x.stride[0] : row * rs + col * cs;
        const std::int64_t bytes = offset * (x.dtype == "float32" ? 4 : 2);
        return jpllm_matrix{reinterpret_cast<void*>(x.address + static_cast<std::uintptr_t>(bytes)), rs, cs,
                            dtype_of(x)};
    };
    std::vector<jpllm_gemm_args> products(static_cast<std::size_t>(groups));
    std::int64_t start = 0;
    for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t size = sizes ? (*sizes)[static_cast<std::size_t>(g)] : 0;
        if (size < 0) fail(op, "a group has a negative size: " + std::to_string(size));
        jpllm_gemm_args& p = products[static_cast<std::size_t>(g)];
        p.m = by_rows ? size : rows(c), p.n = cols(c), p.k = by_k ? size : cols(a);
        p.a = part(a, g, by_rows ? start : 0, by_k ? start : 0), p.b = part(b, g, start, 0);
        p.c = part(c, g, start, 0);
        set_math(op, math, math_chunk, &p);
        start += size;
    }
    if (sizes) same(op, "the sum of sizes and what they divide", start, by_rows ? rows(a) : cols(a));
    run(op, [&] { return jpllm_gemm_batch(groups, products.data(), threads); });
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
          "gate_out"_a = py::none(), "up_out"_a = py::none(), "math"_a = "exact", "math_chunk"_a = 32,
          "packed"_a = py::none());
    m.def("packed_bytes", &packed_bytes, "b"_a, "a_dtype"_a, "math"_a = "exact", "math_chunk"_a = 32);
    m.def("pack", &pack, "b packed once for many products gemm(..., packed=packed)", "b"_a, "packed"_a, "a_dtype"_a,
          "threads"_a, "math"_a = "exact", "math_chunk"_a = 32);
    m.def("grouped_gemm", &grouped_gemm, "c[g] = a[g] @ b[g], whole or by rows or columns in groups of `sizes`", "a"_a,
          "b"_a, "c"_a, "sizes"_a, "threads"_a, "math"_a = "exact", "math_chunk"_a = 32);
    m.def("column_sum", &column_sum, "x"_a, "out"_a, "threads"_a);
}
