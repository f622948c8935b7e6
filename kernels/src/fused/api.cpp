// The fused operations: the C functions. They check arguments and call the table of the instruction set in use.
#include "../core/cache.h"
#include "../core/check.h"
#include "args.h"

JPLLM_LOOK_UP(FusedTable)

namespace {

using namespace jpllm;

const float* floats(const void* p) { return static_cast<const float*>(p); }
float* floats(void* p) { return static_cast<float*>(p); }

}  // namespace

extern "C" {

int64_t jpllm_set_past_caches(int64_t bytes) {
    return past_caches_from().exchange(bytes >= 0 ? bytes : last_level_cache());
}

jpllm_status jpllm_rms_norm(jpllm_dtype dtype, int64_t m, int64_t d, const void* x, int64_t x_rs, const void* update,
                            int64_t update_rs, const void* weight, double eps, void* sum, int64_t sum_rs, void* y,
                            int64_t y_rs, void* rstd, int threads) {
    const bool any = m > 0 && d > 0, adds = update != nullptr;
    const size_t size = element_size(dtype);
    JPLLM_REQUIRE(Check()
                      .storage(dtype)
                      .that(m >= 0 && d >= 0 && eps >= 0 && (sum != nullptr || !adds || !any))
                      .array(x, any, size)
                      .array(update, false, size)
                      .array(weight, any, size)
                      .array(sum, false, size)
                      .array(y, any, size)
                      .array(rstd, any)
                      .rows_apart(m, y_rs, d)
                      .rows_apart(adds ? m : 0, sum_rs, d));
    if (!any) return JPLLM_OK;
    NormArgs a{m,         d,       {x, x_rs},    {update, update_rs},
               weight,    nullptr, eps,          {sum, sum_rs},
               {y, y_rs}, nullptr, floats(rstd), false};
    const Shape shape{m, d, size};
    a.past_caches = past_caches(shape.bytes(), {shape.of(a.y), adds ? shape.of(a.sum) : Range{0, 0}},
                                {shape.of(a.x), shape.of(a.update), range(weight, 1, d, 0, size)});
    return done(table()->rms_norm[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_layer_norm(jpllm_dtype dtype, int64_t m, int64_t d, const void* x, int64_t x_rs, const void* weight,
                              const void* bias, double eps, void* y, int64_t y_rs, void* mean, void* rstd,
                              int threads) {
    const bool any = m > 0 && d > 0;
    const size_t size = element_size(dtype);
    JPLLM_REQUIRE(Check()
                      .storage(dtype)
                      .that(m >= 0 && d >= 0 && eps >= 0)
                      .array(x, any, size)
                      .array(weight, any, size)
                      .array(bias, any, size)
                      .array(y, any, size)
                      .array(mean, any)
                      .array(rstd, any)
                      .rows_apart(m, y_rs, d));
    if (!any) return JPLLM_OK;
    NormArgs a{m,    d, {x, x_rs}, {nullptr, 0}, weight, bias, eps, {nullptr, 0}, {y, y_rs}, floats(mean), floats(rstd),
               false};
    const Shape shape{m, d, size};
    a.past_caches = past_caches(shape.bytes(), {shape.of(a.y)},
                                {shape.of(a.x), range(weight, 1, d, 0, size), range(bias, 1, d, 0, size)});
    return done(table()->layer_norm[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_norm_backward(jpllm_dtype dtype, int64_t m, int64_t d, const void* dy, int64_t dy_rs, const void* x,
                                 int64_t x_rs, const void* dsum, int64_t dsum_rs, const void* weight, const void* mean,
                                 const void* rstd, void* dx, int64_t dx_rs, void* dweight, void* dbias, int threads) {
    const bool any = m > 0 && d > 0, centred = dbias != nullptr;
    const size_t size = element_size(dtype);
    JPLLM_REQUIRE(Check()
                      .storage(dtype)
                      .that(m >= 0 && d >= 0)
                      .array(dy, any, size)
                      .array(x, any, size)
                      .array(dsum, false, size)
                      .array(weight, any, size)
                      .array(mean, any && centred)
                      .array(rstd, any)
                      .array(dx, any, size)
                      .array(dweight, d > 0, size)
                      .array(dbias, false, size)
                      .rows_apart(m, dx_rs, d));
    NormBackwardArgs a{
        m,           d,       {dy, dy_rs}, {x, x_rs}, {dsum, dsum_rs}, weight, floats(mean), floats(rstd),
        {dx, dx_rs}, dweight, dbias,       false};
    const Shape shape{m, d, size};
    a.past_caches = past_caches(shape.bytes(), {shape.of(a.dx)},
                                {shape.of(a.dy), shape.of(a.x), shape.of(a.dsum), range(weight, 1, d, 0, size)});
    const auto& kernels = centred ? table()->layer_norm_backward : table()->rms_norm_backward;
    return done(kernels[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_swiglu(jpllm_dtype dtype, int64_t m, int64_t n, const void* gate, int64_t gate_rs, const void* up,
                          int64_t up_rs, void* y, int64_t y_rs, int threads) {
    const bool any = m > 0 && n > 0;
    const size_t size = element_size(dtype);
    JPLLM_REQUIRE(Check()
                      .storage(dtype)
                      .that(m >= 0 && n >= 0)
                      .array(gate, any, size)
                      .array(up, any, size)
                      .array(y, any, size)
                      .rows_apart(m, y_rs, n));
    if (!any) return JPLLM_OK;
    SwigluArgs a{m, n, {nullptr, 0}, {gate, gate_rs}, {up, up_rs}, {y, y_rs}, {nullptr, 0}, {nullptr, 0}, false};
    const Shape shape{m, n, size};
    a.past_caches = past_caches(shape.bytes(), {shape.of(a.y)}, {shape.of(a.gate), shape.of(a.up)});
    return done(table()->swiglu[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_swiglu_backward(jpllm_dtype dtype, int64_t m, int64_t n, const void* dy, int64_t dy_rs,
                                   const void* gate, int64_t gate_rs, const void* up, int64_t up_rs, void* dgate,
                                   int64_t dgate_rs, void* dup, int64_t dup_rs, int threads) {
    const bool any = m > 0 && n > 0;
    const size_t size = element_size(dtype);
    JPLLM_REQUIRE(Check()
                      .storage(dtype)
                      .that(m >= 0 && n >= 0)
                      .array(dy, any, size)
                      .array(gate, any, size)
                      .array(up, any, size)
                      .array(dgate, any, size)
                      .array(dup, any, size)
                      .rows_apart(m, dgate_rs, n)
                      .rows_apart(m, dup_rs, n));
    if (!any) return JPLLM_OK;
    SwigluArgs a{m,    n, {dy, dy_rs}, {gate, gate_rs}, {up, up_rs}, {nullptr, 0}, {dgate, dgate_rs}, {dup, dup_rs},
                 false};
    const Shape shape{m, n, size};
    a.past_caches = past_caches(2 * shape.bytes(), {shape.of(a.dgate), shape.of(a.dup)},
                                {shape.of(a.dy), shape.of(a.gate), shape.of(a.up)});
    return done(table()->swiglu[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_softmax(jpllm_dtype dtype, int64_t m, int64_t n, const void* x, int64_t x_rs, void* y, int64_t y_rs,
                           int threads) {
    const bool any = m > 0 && n > 0;
    const size_t size = element_size(dtype);
    JPLLM_REQUIRE(
        Check().storage(dtype).that(m >= 0 && n >= 0).array(x, any, size).array(y, any, size).rows_apart(m, y_rs, n));
    if (!any) return JPLLM_OK;
    SoftmaxArgs a{m, n, {x, x_rs}, {nullptr, 0}, {y, y_rs}, false};
    const Shape shape{m, n, size};
    a.past_caches = past_caches(shape.bytes(), {shape.of(a.y)}, {shape.of(a.x)});
    return done(table()->softmax[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_softmax_backward(jpllm_dtype dtype, int64_t m, int64_t n, const void* dy, int64_t dy_rs,
                                    const void* y, int64_t y_rs, void* dx, int64_t dx_rs, int threads) {
    const bool any = m > 0 && n > 0;
    const size_t size = element_size(dtype);
    JPLLM_REQUIRE(Check()
                      .storage(dtype)
                      .that(m >= 0 && n >= 0)
                      .array(dy, any, size)
                      .array(y, any, size)
                      .array(dx, any, size)
                      .rows_apart(m, dx_rs, n));
    if (!any) return JPLLM_OK;
    SoftmaxArgs a{m, n, {y, y_rs}, {dy, dy_rs}, {dx, dx_rs}, false};
    const Shape shape{m, n, size};
    a.past_caches = past_caches(shape.bytes(), {shape.of(a.y)}, {shape.of(a.x), shape.of(a.dy)});
    return done(table()->softmax[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_cast(jpllm_dtype from, jpllm_dtype to, int64_t m, int64_t n, const void* x, int64_t x_rs, void* y,
                        int64_t y_rs, double scale, int* finite, int threads) {
    const bool any = m > 0 && n > 0;
    JPLLM_REQUIRE(Check()
                      .storage(from)
                      .storage(to)
                      .that(m >= 0 && n >= 0 && finite != nullptr)
                      .array(x, any, element_size(from))
                      .array(y, any, element_size(to))
                      .rows_apart(m, y_rs, n));
    *finite = 1;
    if (!any) return JPLLM_OK;
    CastArgs a{m, n, {x, x_rs}, {y, y_rs}, static_cast<float>(scale), finite, false};
    const Shape in{m, n, element_size(from)}, out{m, n, element_size(to)};
    a.past_caches = past_caches(out.bytes(), {out.of(a.y)}, {in.of(a.x)});
    return done(table()->cast[storage_type(from)][storage_type(to)](a, team_size(threads)));
}

jpllm_status jpllm_rotary(jpllm_dtype dtype, int64_t batch, int64_t tokens, int64_t head_size,
                          const jpllm_rotary_heads* q, const jpllm_rotary_heads* k, const void* table_data,
                          const int64_t* table_stride, int inverse, int threads) {
    const size_t size = element_size(dtype);
    Check check;
    check.storage(dtype).that(batch >= 0 && tokens >= 0 && head_size >= 0 && head_size % 2 == 0);
    check.that(q != nullptr && k != nullptr && table_stride != nullptr);
    if (check.status == JPLLM_OK) {
        for (const jpllm_rotary_heads* part : {q, k}) {
            const bool any = batch > 0 && tokens > 0 && head_size > 0 && part->heads > 0;
            check.that(part->heads >= 0).array(part->x, any, size).array(part->y, any, size);
        }
        check.array(table_data, batch > 0 && tokens > 0 && head_size > 0);
    }
    JPLLM_REQUIRE(check);
    if (batch == 0 || tokens == 0 || head_size == 0) return JPLLM_OK;
    const auto heads = [&](const jpllm_rotary_heads& part) {
        RotaryHeads h{part.heads, part.x, {}, part.y, {}, false};
        for (int i = 0; i < 3; ++i) h.x_stride[i] = part.x_stride[i], h.y_stride[i] = part.y_stride[i];
        // Only where the output is apart: otherwise it is in the caches already, and its lines must not be made new.
        const int64_t bytes = batch * tokens * part.heads * head_size * static_cast<int64_t>(size);
        const auto whole = [&](const void* data, const int64_t* stride) {
            Range all = range(data, part.heads, head_size, stride[2], size);
            for (int i = 0; i < 2; ++i) {
                const int64_t last = ((i == 0 ? batch : tokens) - 1) * stride[i] * static_cast<int64_t>(size);
                (last < 0 ? all.start : all.stop) += static_cast<uintptr_t>(last);
            }
            return all;
        };
        h.past_caches =
            part.heads > 0 && past_caches(bytes, {whole(part.y, part.y_stride)}, {whole(part.x, part.x_stride)});
        return h;
    };
    const RotaryArgs a{batch,
                       tokens,
                       head_size / 2,
                       heads(*q),
                       heads(*k),
                       floats(table_data),
                       {table_stride[0], table_stride[1]},
                       inverse != 0 ? -1.0f : 1.0f};
    return done(table()->rotary[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_embedding(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const int64_t* ids,
                             const void* table_data, int64_t table_rs, void* y, int64_t y_rs, int threads) {
    const bool any = n > 0 && d > 0;
    const size_t size = element_size(dtype);
    JPLLM_REQUIRE(Check()
                      .storage(dtype)
                      .that(n >= 0 && v >= 0 && d >= 0)
                      .array(ids, n > 0, 8)
                      .array(table_data, any && v > 0, size)
                      .array(y, any, size)
                      .rows_apart(n, y_rs, d));
    EmbeddingArgs a{n, v, d, ids, {table_data, table_rs}, {y, y_rs}, false};
    const Shape table_shape{v, d, size}, shape{n, d, size};
    a.past_caches = past_caches(shape.bytes(), {shape.of(a.y)}, {table_shape.of(a.x)});
    return done(table()->embedding[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_embedding_backward(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const int64_t* ids,
                                      const void* dy, int64_t dy_rs, void* dtable, int64_t dtable_rs, int threads) {
    const size_t size = element_size(dtype);
    JPLLM_REQUIRE(Check()
                      .storage(dtype)
                      .that(n >= 0 && v >= 0 && d >= 0)
                      .array(ids, n > 0, 8)
                      .array(dy, n > 0 && d > 0, size)
                      .array(dtable, v > 0 && d > 0, size)
                      .rows_apart(v, dtable_rs, d));
    EmbeddingArgs a{n, v, d, ids, {dy, dy_rs}, {dtable, dtable_rs}, false};
    const Shape table_shape{v, d, size}, shape{n, d, size};
    a.past_caches = past_caches(table_shape.bytes(), {table_shape.of(a.y)}, {shape.of(a.x)});
    return done(table()->embedding_backward[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_adamw_step(int64_t n, float* param, jpllm_dtype grad_dtype, const void* grad, float* exp_avg,
                              float* exp_avg_sq, jpllm_dtype model_dtype, void* model, double lr, double beta1,
                              double beta2, double eps, double weight_decay, int64_t step, double grad_scale,
                              int threads) {
    if (model == nullptr) model_dtype = JPLLM_FP32;
    JPLLM_REQUIRE(Check()
                      .storage(grad_dtype)
                      .storage(model_dtype)
                      .that(n >= 0 && step >= 1)
                      .that(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1 && eps >= 0)
                      .array(param, n > 0)
                      .array(grad, n > 0, element_size(grad_dtype))
                      .array(exp_avg, n > 0)
                      .array(exp_avg_sq, n > 0)
                      .array(model, false, element_size(model_dtype)));
    const AdamwArgs a{n,     param, grad, exp_avg,      exp_avg_sq, model,     lr,
                      beta1, beta2, eps,  weight_decay, step,       grad_scale};
    return done(table()->adamw_step[storage_type(grad_dtype)][storage_type(model_dtype)](a, team_size(threads)));
}

jpllm_status jpllm_sum_of_squares(jpllm_dtype dtype, int64_t n, const void* x, double* sum, int threads) {
    JPLLM_REQUIRE(Check().storage(dtype).that(n >= 0 && sum != nullptr).array(x, n > 0, element_size(dtype)));
    return done(table()->sum_of_squares[storage_type(dtype)]({n, x, sum}, team_size(threads)));
}

}  // extern "C"
