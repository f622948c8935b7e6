// Attention: bindings. Letters: B batch, S queries, T keys, H query heads, K key/value heads, D width of a head.
#include <optional>

#include "arrays.h"

namespace {

struct Heads {
    Array array;

    Heads(const char* op, const char* name, const py::tuple& from, const Array* like)
        : array(take_storage(op, name, from, 4, like)) {
        contiguous_rows(array);
    }
    void shaped(const Heads& other) const {
        if (array.shape != other.array.shape) {
            fail(array.op, std::string(array.name) + " must have the shape of " + other.array.name + ", has " +
                               text(array.shape) + " and not " + text(other.array.shape));
        }
    }
    jpllm_heads view() const { return {array.data(), array.stride[0], array.stride[1], array.stride[2]}; }
};

// Documents, lse and the sizes that forward and backward share.
struct Call {
    jpllm_attention_shape shape;
    std::optional<Array> query_ids, key_ids;
    Array lse;

    Call(const char* op, const Heads& q, const Heads& k, const Heads& v, const py::object& query_ids_t,
         const py::object& key_ids_t, const py::tuple& lse_t, double scale, bool causal, std::int64_t window)
        : lse(take(op, "lse", lse_t, 3)) {
        v.shaped(k);
        const auto &qs = q.array.shape, &ks = k.array.shape;
        same(op, "the batches of q and k", qs[0], ks[0]);
        same(op, "the widths of q and k", qs[3], ks[3]);
        if (ks[2] < 1 || qs[2] % ks[2] != 0) {
            fail(op, "the heads of q must be a multiple of those of k: " + std::to_string(qs[2]) + " and " +
                         std::to_string(ks[2]));
        }
        if (ks[1] < qs[1]) {
            fail(op,
                 std::to_string(qs[1]) + " queries are the last positions of only " + std::to_string(ks[1]) + " keys");
        }
        if (qs[3] < 1 || qs[3] > 256) fail(op, "a head's width must be 1 to 256, is " + std::to_string(qs[3]));
        if (window < 0) fail(op, "window must not be negative, is " + std::to_string(window));
        if (query_ids_t.is_none() != key_ids_t.is_none()) fail(op, "document ids are needed for queries and keys");
        contiguous(lse);
        same(op, "the batches of q and lse", qs[0], lse.shape[0]);
        same(op, "the heads of q and lse", qs[2], lse.shape[1]);
        same(op, "the queries of q and lse", qs[1], lse.shape[2]);
        shape = {qs[0], qs[1], ks[1], qs[2], ks[2], qs[3], scale, causal, window, nullptr, nullptr};
        if (!query_ids_t.is_none()) {
            query_ids = take(op, "query_ids", query_ids_t, 2, "int64", 8);
            key_ids = take(op, "key_ids", key_ids_t, 2, "int64", 8);
            contiguous(*query_ids), contiguous(*key_ids);
            same(op, "the rows of q and query_ids", qs[0], query_ids->rows());
            same(op, "the queries of q and query_ids", qs[1], query_ids->cols());
            same(op, "the rows of k and key_ids", ks[0], key_ids->rows());
            same(op, "the keys of k and key_ids", ks[1], key_ids->cols());
            shape.query_ids = static_cast<const std::int64_t*>(query_ids->data());
            shape.key_ids = static_cast<const std::int64_t*>(key_ids->data());
            // No memory for no ids means that there are none to look at, not that there are no documents.
            if (shape.query_ids == nullptr || shape.key_ids == nullptr) shape.query_ids = shape.key_ids = nullptr;
        }
    }
};

void attention(const py::tuple& q_t, const py::tuple& k_t, const py::tuple& v_t, const py::object& query_ids,
               const py::object& key_ids, double scale, bool causal, std::int64_t window, const py::tuple& out_t,
               const py::tuple& lse_t, int threads) {
    const char* op = "attention";
    const Heads q(op, "q", q_t, nullptr);
    const Heads k(op, "k", k_t, &q.array), v(op, "v", v_t, &q.array), out(op, "out", out_t, &q.array);
    out.shaped(q);
    const Call call(op, q, k, v, query_ids, key_ids, lse_t, scale, causal, window);
    run(op, [&] {
        return jpllm_attention(dtype_of(q.array), &call.shape, q.view(), k.view(), v.view(), out.view(),
                               static_cast<float*>(call.lse.data()), threads);
    });
}

void attention_backward(const py::tuple& dout_t, const py::tuple& q_t, const py::tuple& k_t, const py::tuple& v_t,
                        const py::tuple& out_t, const py::tuple& lse_t, const py::object& query_ids,
                        const py::object& key_ids, double scale, bool causal, std::int64_t window,
                        const py::tuple& dq_t, const py::tuple& dk_t, const py::tuple& dv_t, int threads) {
    const char* op = "attention_backward";
    const Heads q(op, "q", q_t, nullptr);
    const Heads k(op, "k", k_t, &q.array), v(op, "v", v_t, &q.array), out(op, "out", out_t, &q.array);
    const Heads dout(op, "dout", dout_t, &q.array), dq(op, "dq", dq_t, &q.array), dk(op, "dk", dk_t, &q.array),
        dv(op, "dv", dv_t, &q.array);
    out.shaped(q), dout.shaped(q), dq.shaped(q), dk.shaped(k), dv.shaped(k);
    const Call call(op, q, k, v, query_ids, key_ids, lse_t, scale, causal, window);
    run(op, [&] {
        return jpllm_attention_backward(dtype_of(q.array), &call.shape, q.view(), k.view(), v.view(), out.view(),
                                        static_cast<const float*>(call.lse.data()), dout.view(), dq.view(), dk.view(),
                                        dv.view(), threads);
    });
}

}  // namespace

void bind_attention(py::module_& m) {
    using namespace py::literals;
    m.def("attention", &attention, "q"_a, "k"_a, "v"_a, "query_ids"_a, "key_ids"_a, "scale"_a, "causal"_a, "window"_a,
          "out"_a, "lse"_a, "threads"_a);
    m.def("attention_backward", &attention_backward, "dout"_a, "q"_a, "k"_a, "v"_a, "out"_a, "lse"_a, "query_ids"_a,
          "key_ids"_a, "scale"_a, "causal"_a, "window"_a, "dq"_a, "dk"_a, "dv"_a, "threads"_a);
}
