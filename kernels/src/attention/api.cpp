// Attention: the C functions. They check arguments, look documents up and call the table of the instruction set in use.
#include <new>

#include "../core/check.h"
#include "args.h"
#include "documents.h"

JPLLM_LOOK_UP(AttentionTable)

namespace {

using namespace jpllm;

HeadsView view(const jpllm_heads& x) { return {x.data, x.batch_stride, x.row_stride, x.head_stride}; }

// Rows of an output [batch, rows, heads, dim] must not overlap: in the order of their strides, each dimension steps
// over all of the smaller ones.
bool apart(const jpllm_heads& x, int64_t batch, int64_t rows, int64_t heads, int64_t dim) {
    std::pair<int64_t, int64_t> steps[3] = {{x.batch_stride, batch}, {x.row_stride, rows}, {x.head_stride, heads}};
    for (auto& step : steps) step.first = step.first < 0 ? -step.first : step.first;
    std::sort(steps, steps + 3);
    int64_t extent = dim;
    for (const auto& step : steps) {
        if (step.second <= 1) continue;
        if (step.first < extent) return false;
        extent += step.first * (step.second - 1);
    }
    return true;
}

Check common(jpllm_dtype dtype, const jpllm_attention_shape* s) {
    Check check = Check().storage(dtype).that(s != nullptr);
    if (check.status != JPLLM_OK) return check;
    return check.that(s->batch >= 0 && s->queries >= 0 && s->keys >= s->queries && s->keys < (int64_t{1} << 24))
        .that(s->heads >= 0 && s->kv_heads >= 1 && s->heads % s->kv_heads == 0)
        .that(s->dim >= 1 && s->dim <= 256 && s->window >= 0)
        .that(s->queries == 0 || (s->query_ids == nullptr) == (s->key_ids == nullptr))
        .array(s->query_ids, false, 8)
        .array(s->key_ids, false, 8);
}

AttentionArgs arguments(const jpllm_attention_shape& s) {
    AttentionArgs args{};
    args.batch = s.batch, args.queries = s.queries, args.keys = s.keys, args.heads = s.heads;
    args.kv_heads = s.kv_heads, args.dim = s.dim, args.scale = s.scale, args.causal = s.causal != 0;
    args.window = s.window;
    return args;
}

template <class Run>
jpllm_status with_documents(const jpllm_attention_shape& s, AttentionArgs args, Run run) {
    try {
        const Documents documents(s.query_ids, s.key_ids, s.batch, s.queries, s.keys);
        documents.put(&args);
        return done(run(args));
    } catch (const std::bad_alloc&) {
        return JPLLM_ERR_MEMORY;
    }
}

}  // namespace

extern "C" {

jpllm_status jpllm_attention(jpllm_dtype dtype, const jpllm_attention_shape* shape, jpllm_heads q, jpllm_heads k,
                             jpllm_heads v, jpllm_heads out, float* lse, int threads) {
    JPLLM_REQUIRE(common(dtype, shape));
    const jpllm_attention_shape& s = *shape;
    const size_t element = element_size(dtype);
    const bool asked = s.batch > 0 && s.queries > 0 && s.heads > 0;
    JPLLM_REQUIRE(Check()
                      .array(q.data, asked, element)
                      .array(k.data, asked, element)
                      .array(v.data, asked, element)
                      .array(out.data, asked, element)
                      .array(lse, asked)
                      .that(apart(out, s.batch, s.queries, s.heads, s.dim)));
    if (!asked) return JPLLM_OK;
    AttentionArgs args = arguments(s);
    args.q = view(q), args.k = view(k), args.v = view(v), args.out = view(out), args.lse = lse;
    const auto kernel = table()->forward[storage_type(dtype)];
    return with_documents(s, args, [&](const AttentionArgs& a) { return kernel(a, team_size(threads)); });
}

jpllm_status jpllm_attention_backward(jpllm_dtype dtype, const jpllm_attention_shape* shape, jpllm_heads q,
                                      jpllm_heads k, jpllm_heads v, jpllm_heads out, const float* lse, jpllm_heads dout,
                                      jpllm_heads dq, jpllm_heads dk, jpllm_heads dv, int threads) {
    JPLLM_REQUIRE(common(dtype, shape));
    const jpllm_attention_shape& s = *shape;
    const size_t element = element_size(dtype);
    const bool keys = s.batch > 0 && s.keys > 0 && s.heads > 0, asked = keys && s.queries > 0;
    Check check;
    for (const jpllm_heads* x : {&q, &out, &dout, &dq}) check.array(x->data, asked, element);
    for (const jpllm_heads* x : {&k, &v, &dk, &dv}) check.array(x->data, keys, element);
    JPLLM_REQUIRE(check.array(lse, asked)
                      .that(apart(dq, s.batch, s.queries, s.heads, s.dim))
                      .that(apart(dk, s.batch, s.keys, s.kv_heads, s.dim))
                      .that(apart(dv, s.batch, s.keys, s.kv_heads, s.dim)));
    if (!keys) return JPLLM_OK;
    AttentionArgs args = arguments(s);
    args.q = view(q), args.k = view(k), args.v = view(v), args.out = view(out), args.lse = const_cast<float*>(lse);
    args.dout = view(dout), args.dq = view(dq), args.dk = view(dk), args.dv = view(dv);
    const auto kernel = table()->backward[storage_type(dtype)];
    return with_documents(s, args, [&](const AttentionArgs& a) { return kernel(a, team_size(threads)); });
}

}  // extern "C"
