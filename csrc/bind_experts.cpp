// Mixture of experts: bindings. Letters: N tokens, E experts, k experts of a token, M = N k rows, D width.
#include "arrays.h"

namespace {

Array whole(const char* op, const char* name, const py::handle& from, std::size_t dims, bool integers = false) {
    const Array a = integers ? take(op, name, from, dims, "int64", 8) : take(op, name, from, dims);
    contiguous(a);
    return a;
}

std::int64_t* integers(const Array& a) { return static_cast<std::int64_t*>(a.data()); }
float* floats(const Array& a) { return static_cast<float*>(a.data()); }

void same_shape(const Array& a, const Array& b) {
    if (a.shape != b.shape) {
        fail(a.op, "the shapes of " + std::string(a.name) + " and " + b.name + " differ: " + text(a.shape) + " and " +
                       text(b.shape));
    }
}

void check_route(const Array& logits, const Array& experts, const Array& weights) {
    contiguous_rows(logits);
    same(logits.op, "the rows of logits and of experts", logits.rows(), experts.rows());
    same_shape(experts, weights);
    if (experts.cols() > logits.cols()) {
        fail(logits.op, std::to_string(experts.cols()) + " experts of " + std::to_string(logits.cols()));
    }
}

void route(const py::tuple& logits_t, const py::object& bias_t, bool sigmoid, bool normalize,
           const py::tuple& experts_t, const py::tuple& weights_t, int threads) {
    const char* op = "route";
    const Array logits = take_storage(op, "logits", logits_t, 2), experts = whole(op, "experts", experts_t, 2, true);
    const Array weights = whole(op, "weights", weights_t, 2);
    check_route(logits, experts, weights);
    const float* bias = nullptr;
    if (!bias_t.is_none()) {
        const Array a = whole(op, "bias", bias_t, 1);
        same(op, "the columns of logits and the size of bias", logits.cols(), a.rows());
        bias = floats(a);
    }
    run(op, [&] {
        return jpllm_route(dtype_of(logits), logits.rows(), logits.cols(), experts.cols(), logits.data(),
                           logits.stride[0], bias, sigmoid, normalize, integers(experts), floats(weights), threads);
    });
}

void route_backward(const py::tuple& dweights_t, const py::tuple& logits_t, bool sigmoid, bool normalize,
                    const py::tuple& experts_t, const py::tuple& weights_t, const py::tuple& dlogits_t, int threads) {
    const char* op = "route_backward";
    const Array logits = take_storage(op, "logits", logits_t, 2), experts = whole(op, "experts", experts_t, 2, true);
    const Array weights = whole(op, "weights", weights_t, 2), dweights = whole(op, "dweights", dweights_t, 2);
    const Array dlogits = take_storage(op, "dlogits", dlogits_t, 2, &logits);
    check_route(logits, experts, weights);
    same_shape(weights, dweights), same_shape(logits, dlogits), contiguous_rows(dlogits);
    run(op, [&] {
        return jpllm_route_backward(dtype_of(logits), logits.rows(), logits.cols(), experts.cols(), logits.data(),
                                    logits.stride[0], sigmoid, normalize, integers(experts), floats(weights),
                                    floats(dweights), dlogits.data(), dlogits.stride[0], threads);
    });
}

void sort_by_expert(const py::tuple& experts_t, const py::tuple& token_t, const py::tuple& position_t,
                    const py::tuple& sizes_t) {
    const char* op = "sort_by_expert";
    const Array experts = whole(op, "experts", experts_t, 2, true), token = whole(op, "token", token_t, 1, true);
    const Array position = whole(op, "position", position_t, 2, true), sizes = whole(op, "sizes", sizes_t, 1, true);
    same_shape(experts, position);
    same(op, "the sizes of experts and of token", experts.rows() * experts.cols(), token.rows());
    run(op, [&] {
        return jpllm_sort_by_expert(experts.rows(), experts.cols(), sizes.rows(), integers(experts), integers(token),
                                    integers(position), integers(sizes));
    });
}

// Rows of the tokens [N, D] and of the experts [M, D], position [N, k].
void check_combine(const Array& position, const Array& tokens, const Array& rows) {
    contiguous_rows(tokens), contiguous_rows(rows);
    same(position.op, "the rows of position and of the tokens", position.rows(), tokens.rows());
    same(position.op, "the size of position and the rows of x", position.rows() * position.cols(), rows.rows());
    same(position.op, "the widths", tokens.cols(), rows.cols());
}

void combine(const py::tuple& x_t, const py::tuple& position_t, const py::object& weights_t, const py::tuple& y_t,
             int threads) {
    const char* op = "combine";
    const Array x = take_storage(op, "x", x_t, 2), position = whole(op, "position", position_t, 2, true);
    const Array y = take_storage(op, "y", y_t, 2, &x);
    check_combine(position, y, x);
    const float* weights = nullptr;
    if (!weights_t.is_none()) {
        const Array a = whole(op, "weights", weights_t, 2);
        same_shape(position, a);
        weights = floats(a);
    }
    run(op, [&] {
        return jpllm_combine(dtype_of(x), position.rows(), position.cols(), x.cols(), integers(position), weights,
                             x.data(), x.stride[0], y.data(), y.stride[0], threads);
    });
}

void combine_backward(const py::tuple& dy_t, const py::tuple& x_t, const py::tuple& position_t,
                      const py::tuple& weights_t, const py::tuple& dx_t, const py::tuple& dweights_t, int threads) {
    const char* op = "combine_backward";
    const Array x = take_storage(op, "x", x_t, 2), position = whole(op, "position", position_t, 2, true);
    const Array dy = take_storage(op, "dy", dy_t, 2, &x), dx = take_storage(op, "dx", dx_t, 2, &x);
    const Array weights = whole(op, "weights", weights_t, 2), dweights = whole(op, "dweights", dweights_t, 2);
    check_combine(position, dy, x);
    same_shape(x, dx), same_shape(position, weights), same_shape(position, dweights), contiguous_rows(dx);
    run(op, [&] {
        return jpllm_combine_backward(dtype_of(x), position.rows(), position.cols(), x.cols(), integers(position),
                                      floats(weights), x.data(), x.stride[0], dy.data(), dy.stride[0], dx.data(),
                                      dx.stride[0], floats(dweights), threads);
    });
}

}  // namespace

void bind_experts(py::module_& m) {
    using namespace py::literals;
    m.def("route", &route, "logits"_a, "bias"_a, "sigmoid"_a, "normalize"_a, "experts"_a, "weights"_a, "threads"_a);
    m.def("route_backward", &route_backward, "dweights"_a, "logits"_a, "sigmoid"_a, "normalize"_a, "experts"_a,
          "weights"_a, "dlogits"_a, "threads"_a);
    m.def("sort_by_expert", &sort_by_expert, "experts"_a, "token"_a, "position"_a, "sizes"_a);
    m.def("combine", &combine, "x"_a, "position"_a, "weights"_a, "y"_a, "threads"_a);
    m.def("combine_backward", &combine_backward, "dy"_a, "x"_a, "position"_a, "weights"_a, "dx"_a, "dweights"_a,
          "threads"_a);
}
