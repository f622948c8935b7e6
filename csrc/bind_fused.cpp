// Fused operations: bindings. Letters: M rows, N columns, D width.
#include "arrays.h"

namespace {

// An array of x's type and shape, rows apart by any stride.
Array like(const Array& x, const char* name, const py::handle& from) {
    Array a = take_storage(x.op, name, from, x.shape.size(), &x);
    if (a.shape != x.shape) {
        fail(x.op, "the shapes of " + std::string(x.name) + " and " + name + " differ: " + text(x.shape) + " and " +
                       text(a.shape));
    }
    contiguous_rows(a);
    return a;
}

float* floats(const Array& a) { return static_cast<float*>(a.data()); }

// A vector [n], of x's type or FP32.
void* vector(const Array& x, const char* name, const py::handle& from, std::int64_t n, bool fp32) {
    const Array a = fp32 ? take(x.op, name, from, 1) : take_storage(x.op, name, from, 1, &x);
    const std::string what = n == x.rows() && fp32 ? "the rows" : "the columns";
    same(x.op, (what + " of " + x.name + " and the size of " + name).c_str(), n, a.rows());
    contiguous(a);
    return a.data();
}

void rms_norm(const py::tuple& x_t, const py::object& update_t, const py::tuple& weight_t, double eps,
              const py::object& sum_t, const py::tuple& y_t, const py::tuple& rstd_t, int threads) {
    const Array x = take_storage("rms_norm", "x", x_t, 2);
    contiguous_rows(x);
    const void* weight = vector(x, "weight", weight_t, x.cols(), false);
    const Array y = like(x, "y", y_t);
    void* rstd = vector(x, "rstd", rstd_t, x.rows(), true);
    const bool adds = !update_t.is_none();
    if (adds == sum_t.is_none()) fail(x.op, "update and sum go together");
    const Array update = adds ? like(x, "update", update_t) : x, sum = adds ? like(x, "sum", sum_t) : y;
    run(x.op, [&] {
        return jpllm_rms_norm(dtype_of(x), x.rows(), x.cols(), x.data(), x.stride[0], adds ? update.data() : nullptr,
                              update.stride[0], weight, eps, adds ? sum.data() : nullptr, sum.stride[0], y.data(),
                              y.stride[0], rstd, threads);
    });
}

void layer_norm(const py::tuple& x_t, const py::tuple& weight_t, const py::tuple& bias_t, double eps,
                const py::tuple& y_t, const py::tuple& mean_t, const py::tuple& rstd_t, int threads) {
    const Array x = take_storage("layer_norm", "x", x_t, 2);
    contiguous_rows(x);
    const void *weight = vector(x, "weight", weight_t, x.cols(), false),
               *bias = vector(x, "bias", bias_t, x.cols(), false);
    const Array y = like(x, "y", y_t);
    void *mean = vector(x, "mean", mean_t, x.rows(), true), *rstd = vector(x, "rstd", rstd_t, x.rows(), true);
    run(x.op, [&] {
        return jpllm_layer_norm(dtype_of(x), x.rows(), x.cols(), x.data(), x.stride[0], weight, bias, eps, y.data(),
                                y.stride[0], mean, rstd, threads);
    });
}

void rms_norm_backward(const py::tuple& dy_t, const py::tuple& x_t, const py::object& dsum_t, const py::tuple& weight_t,
                       const py::tuple& rstd_t, const py::tuple& dx_t, const py::tuple& dweight_t, int threads) {
    const Array x = take_storage("rms_norm_backward", "x", x_t, 2);
    contiguous_rows(x);
    const Array dy = like(x, "dy", dy_t), dx = like(x, "dx", dx_t),
                dsum = dsum_t.is_none() ? x : like(x, "dsum", dsum_t);
    const void* weight = vector(x, "weight", weight_t, x.cols(), false);
    const void* rstd = vector(x, "rstd", rstd_t, x.rows(), true);
    void* dweight = vector(x, "dweight", dweight_t, x.cols(), false);
    run(x.op, [&] {
        return jpllm_norm_backward(dtype_of(x), x.rows(), x.cols(), dy.data(), dy.stride[0], x.data(), x.stride[0],
                                   dsum_t.is_none() ? nullptr : dsum.data(), dsum.stride[0], weight, nullptr, rstd,
                                   dx.data(), dx.stride[0], dweight, nullptr, threads);
    });
}

void layer_norm_backward(const py::tuple& dy_t, const py::tuple& x_t, const py::tuple& weight_t,
                         const py::tuple& mean_t, const py::tuple& rstd_t, const py::tuple& dx_t,
                         const py::tuple& dweight_t, const py::tuple& dbias_t, int threads) {
    const Array x = take_storage("layer_norm_backward", "x", x_t, 2);
    contiguous_rows(x);
    const Array dy = like(x, "dy", dy_t), dx = like(x, "dx", dx_t);
    const void* weight = vector(x, "weight", weight_t, x.cols(), false);
    const void *mean = vector(x, "mean", mean_t, x.rows(), true), *rstd = vector(x, "rstd", rstd_t, x.rows(), true);
    void* dweight = vector(x, "dweight", dweight_t, x.cols(), false);
    void* dbias = vector(x, "dbias", dbias_t, x.cols(), false);
    if (x.cols() == 0) return;
    run(x.op, [&] {
        return jpllm_norm_backward(dtype_of(x), x.rows(), x.cols(), dy.data(), dy.stride[0], x.data(), x.stride[0],
                                   nullptr, 0, weight, mean, rstd, dx.data(), dx.stride[0], dweight, dbias, threads);
    });
}

void swiglu(const py::tuple& gate_t, const py::tuple& up_t, const py::tuple& y_t, int threads) {
    const Array gate = take_storage("swiglu", "gate", gate_t, 2), up = like(gate, "up", up_t), y = like(gate, "y", y_t);
    contiguous_rows(gate);
    run(gate.op, [&] {
        return jpllm_swiglu(dtype_of(gate), gate.rows(), gate.cols(), gate.data(), gate.stride[0], up.data(),
                            up.stride[0], y.data(), y.stride[0], threads);
    });
}

void swiglu_backward(const py::tuple& dy_t, const py::tuple& gate_t, const py::tuple& up_t, const py::tuple& dgate_t,
                     const py::tuple& dup_t, int threads) {
    const Array gate = take_storage("swiglu_backward", "gate", gate_t, 2), up = like(gate, "up", up_t);
    const Array dy = like(gate, "dy", dy_t), dgate = like(gate, "dgate", dgate_t), dup = like(gate, "dup", dup_t);
    contiguous_rows(gate);
    run(gate.op, [&] {
        return jpllm_swiglu_backward(dtype_of(gate), gate.rows(), gate.cols(), dy.data(), dy.stride[0], gate.data(),
                                     gate.stride[0], up.data(), up.stride[0], dgate.data(), dgate.stride[0], dup.data(),
                                     dup.stride[0], threads);
    });
}

void softmax(const py::tuple& x_t, const py::tuple& y_t, int threads) {
    const Array x = take_storage("softmax", "x", x_t, 2), y = like(x, "y", y_t);
    contiguous_rows(x);
    run(x.op, [&] {
        return jpllm_softmax(dtype_of(x), x.rows(), x.cols(), x.data(), x.stride[0], y.data(), y.stride[0], threads);
    });
}

void softmax_backward(const py::tuple& dy_t, const py::tuple& y_t, const py::tuple& dx_t, int threads) {
    const Array y = take_storage("softmax_backward", "y", y_t, 2), dy = like(y, "dy", dy_t), dx = like(y, "dx", dx_t);
    contiguous_rows(y);
    run(y.op, [&] {
        return jpllm_softmax_backward(dtype_of(y), y.rows(), y.cols(), dy.data(), dy.stride[0], y.data(), y.stride[0],
                                      dx.data(), dx.stride[0], threads);
    });
}

bool cast(const py::tuple& x_t, const py::tuple& y_t, double scale, int threads) {
    const Array x = take_storage("cast", "x", x_t, 2), y = take_storage("cast", "y", y_t, 2);
    same(x.op, "the rows of x and of y", x.rows(), y.rows());
    same(x.op, "the columns of x and of y", x.cols(), y.cols());
    contiguous_rows(x), contiguous_rows(y);
    int finite = 1;
    run(x.op, [&] {
        return jpllm_cast(dtype_of(x), dtype_of(y), x.rows(), x.cols(), x.data(), x.stride[0], y.data(), y.stride[0],
                          scale, &finite, threads);
    });
    return finite != 0;
}

void rotary(const py::tuple& q_t, const py::tuple& k_t, const py::tuple& table_t, const py::tuple& q_out_t,
            const py::tuple& k_out_t, bool inverse, int threads) {
    const char* op = "rotary";
    const Array q = take_storage(op, "q", q_t, 4), k = take_storage(op, "k", k_t, 4, &q);
    const Array q_out = like(q, "q_out", q_out_t), k_out = like(k, "k_out", k_out_t);
    const Array table = take(op, "table", table_t, 3);
    contiguous_rows(q), contiguous_rows(k), contiguous_rows(table);
    same(op, "the batches of q and k", q.shape[0], k.shape[0]);
    same(op, "the tokens of q and k", q.shape[1], k.shape[1]);
    same(op, "the head sizes of q and k", q.shape[3], k.shape[3]);
    for (int i = 0; i < 2; ++i) same(op, "the tokens of q and of table", q.shape[i], table.shape[i]);
    same(op, "the head size of q and the columns of table", q.shape[3], table.shape[2]);
    if (q.shape[3] % 2 != 0) fail(op, "the head size must be even, is " + std::to_string(q.shape[3]));
    const auto heads = [](const Array& x, const Array& y) {
        return jpllm_rotary_heads{x.shape[2],
                                  x.data(),
                                  {x.stride[0], x.stride[1], x.stride[2]},
                                  y.data(),
                                  {y.stride[0], y.stride[1], y.stride[2]}};
    };
    const jpllm_rotary_heads of_q = heads(q, q_out), of_k = heads(k, k_out);
    run(op, [&] {
        return jpllm_rotary(dtype_of(q), q.shape[0], q.shape[1], q.shape[3], &of_q, &of_k, table.data(),
                            table.stride.data(), inverse ? 1 : 0, threads);
    });
}

// ids [N], table [V, D] and rows [N, D] of one type, as they are checked in both directions.
void check_embedding(const Array& ids, const Array& rows, const Array& table) {
    contiguous(ids), contiguous_rows(rows), contiguous_rows(table);
    same(ids.op, "the sizes of ids and of the rows", ids.rows(), rows.rows());
    same(ids.op, "the widths of the rows and of the table", rows.cols(), table.cols());
}

void embedding(const py::tuple& ids_t, const py::tuple& weight_t, const py::tuple& y_t, int threads) {
    const char* op = "embedding";
    const Array ids = take(op, "ids", ids_t, 1, "int64", 8), weight = take_storage(op, "weight", weight_t, 2);
    const Array y = take_storage(op, "y", y_t, 2, &weight);
    check_embedding(ids, y, weight);
    run(op, [&] {
        return jpllm_embedding(dtype_of(weight), ids.rows(), weight.rows(), weight.cols(),
                               static_cast<const std::int64_t*>(ids.data()), weight.data(), weight.stride[0], y.data(),
                               y.stride[0], threads);
    });
}

void embedding_backward(const py::tuple& ids_t, const py::tuple& dy_t, const py::tuple& dweight_t, int threads) {
    const char* op = "embedding_backward";
    const Array ids = take(op, "ids", ids_t, 1, "int64", 8), dy = take_storage(op, "dy", dy_t, 2);
    const Array dweight = take_storage(op, "dweight", dweight_t, 2, &dy);
    check_embedding(ids, dy, dweight);
    run(op, [&] {
        return jpllm_embedding_backward(dtype_of(dy), ids.rows(), dweight.rows(), dweight.cols(),
                                        static_cast<const std::int64_t*>(ids.data()), dy.data(), dy.stride[0],
                                        dweight.data(), dweight.stride[0], threads);
    });
}

void adamw_step(const py::tuple& param_t, const py::tuple& grad_t, const py::tuple& exp_avg_t,
                const py::tuple& exp_avg_sq_t, const py::object& model_t, double lr, double beta1, double beta2,
                double eps, double weight_decay, std::int64_t step, double grad_scale, int threads) {
    const char* op = "adamw_step";
    const Array param = take(op, "param", param_t, 1), grad = take_storage(op, "grad", grad_t, 1);
    const Array exp_avg = take(op, "exp_avg", exp_avg_t, 1), exp_avg_sq = take(op, "exp_avg_sq", exp_avg_sq_t, 1);
    contiguous(param);
    for (const Array* a : {&grad, &exp_avg, &exp_avg_sq}) {
        same(op, "the sizes of param, grad, exp_avg and exp_avg_sq", param.rows(), a->rows());
        contiguous(*a);
    }
    jpllm_dtype model_dtype = JPLLM_FP32;
    void* model = nullptr;
    if (!model_t.is_none()) {
        const Array a = take_storage(op, "model_param", model_t, 1);
        same(op, "the sizes of param and model_param", param.rows(), a.rows());
        contiguous(a);
        model_dtype = dtype_of(a), model = a.data();
    }
    if (step < 1) fail(op, "step counts from 1, is " + std::to_string(step));
    if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1)) fail(op, "beta1 and beta2 must be in [0, 1)");
    if (!(eps >= 0)) fail(op, "eps must not be negative");
    run(op, [&] {
        return jpllm_adamw_step(param.rows(), floats(param), dtype_of(grad), grad.data(), floats(exp_avg),
                                floats(exp_avg_sq), model_dtype, model, lr, beta1, beta2, eps, weight_decay, step,
                                grad_scale, threads);
    });
}

double sum_of_squares(const py::tuple& x_t, int threads) {
    const Array x = take_storage("sum_of_squares", "x", x_t, 1);
    contiguous(x);
    double sum = 0;
    run(x.op, [&] { return jpllm_sum_of_squares(dtype_of(x), x.rows(), x.data(), &sum, threads); });
    return sum;
}

}  // namespace

void bind_fused(py::module_& m) {
    using namespace py::literals;
    m.def("set_past_caches", &jpllm_set_past_caches,
          "Outputs of at least so many bytes go past the caches; -1 as at start. Returns what was set.", "bytes"_a);
    m.def("rms_norm", &rms_norm, "x"_a, "update"_a, "weight"_a, "eps"_a, "sum"_a, "y"_a, "rstd"_a, "threads"_a);
    m.def("rms_norm_backward", &rms_norm_backward, "dy"_a, "x"_a, "dsum"_a, "weight"_a, "rstd"_a, "dx"_a, "dweight"_a,
          "threads"_a);
    m.def("layer_norm", &layer_norm, "x"_a, "weight"_a, "bias"_a, "eps"_a, "y"_a, "mean"_a, "rstd"_a, "threads"_a);
    m.def("layer_norm_backward", &layer_norm_backward, "dy"_a, "x"_a, "weight"_a, "mean"_a, "rstd"_a, "dx"_a,
          "dweight"_a, "dbias"_a, "threads"_a);
    m.def("swiglu", &swiglu, "gate"_a, "up"_a, "y"_a, "threads"_a);
    m.def("swiglu_backward", &swiglu_backward, "dy"_a, "gate"_a, "up"_a, "dgate"_a, "dup"_a, "threads"_a);
    m.def("softmax", &softmax, "x"_a, "y"_a, "threads"_a);
    m.def("softmax_backward", &softmax_backward, "dy"_a, "y"_a, "dx"_a, "threads"_a);
    m.def("cast", &cast, "y = scale * x; returns whether all of y is finite.", "x"_a, "y"_a, "scale"_a, "threads"_a);
    m.def("rotary", &rotary, "q"_a, "k"_a, "table"_a, "q_out"_a, "k_out"_a, "inverse"_a, "threads"_a);
    m.def("embedding", &embedding, "ids"_a, "weight"_a, "y"_a, "threads"_a);
    m.def("embedding_backward", &embedding_backward, "ids"_a, "dy"_a, "dweight"_a, "threads"_a);
    m.def("adamw_step", &adamw_step, "param"_a, "grad"_a, "exp_avg"_a, "exp_avg_sq"_a, "model_param"_a, "lr"_a,
          "beta1"_a, "beta2"_a, "eps"_a, "weight_decay"_a, "step"_a, "grad_scale"_a, "threads"_a);
    m.def("sum_of_squares", &sum_of_squares, "The sum of x^2 in FP64; finite where and only where all of x is.", "x"_a,
          "threads"_a);
}
