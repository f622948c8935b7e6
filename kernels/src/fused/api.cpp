// The fused operations: the C functions. They check arguments and call the table of the instruction set in use.
#include <string.h>

#include "../core/check.h"
#include "args.h"

JPLLM_LOOK_UP(FusedTable)

namespace {

using namespace jpllm;

const float* in(const void* p) { return static_cast<const float*>(p); }
float* out(void* p) { return static_cast<float*>(p); }

}  // namespace

extern "C" {

jpllm_status jpllm_rms_norm(jpllm_dtype dtype, int64_t m, int64_t d, const void* x, int64_t x_rs, const void* weight,
                            double eps, void* y, int64_t y_rs, void* rstd, int threads) {
    const bool any = m > 0 && d > 0;
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(m >= 0 && d >= 0 && eps >= 0)
                      .array(x, any)
                      .array(weight, any)
                      .array(y, any)
                      .array(rstd, any)
                      .rows_apart(m, y_rs, d));
    if (!any) return JPLLM_OK;
    return done(table()->rms_norm({m, d, in(x), x_rs, in(weight), eps, out(y), y_rs, out(rstd)}, team_size(threads)));
}

jpllm_status jpllm_rms_norm_backward(jpllm_dtype dtype, int64_t m, int64_t d, const void* dy, int64_t dy_rs,
                                     const void* x, int64_t x_rs, const void* weight, const void* rstd, void* dx,
                                     int64_t dx_rs, void* dweight, int threads) {
    const bool any = m > 0 && d > 0;
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(m >= 0 && d >= 0)
                      .array(dy, any)
                      .array(x, any)
                      .array(weight, any)
                      .array(rstd, any)
                      .array(dx, any)
                      .array(dweight, d > 0)
                      .rows_apart(m, dx_rs, d));
    return done(table()->rms_norm_backward(
        {m, d, in(dy), dy_rs, in(x), x_rs, in(weight), in(rstd), out(dx), dx_rs, out(dweight)}, team_size(threads)));
}

jpllm_status jpllm_swiglu(jpllm_dtype dtype, int64_t m, int64_t n, const void* gate, int64_t gate_rs, const void* up,
                          int64_t up_rs, void* y, int64_t y_rs, int threads) {
    const bool any = m > 0 && n > 0;
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(m >= 0 && n >= 0)
                      .array(gate, any)
                      .array(up, any)
                      .array(y, any)
                      .rows_apart(m, y_rs, n));
    return done(
        table()->swiglu({m, n, nullptr, in(gate), in(up), 0, gate_rs, up_rs, out(y), nullptr, nullptr, y_rs, 0, 0},
                        team_size(threads)));
}

jpllm_status jpllm_swiglu_backward(jpllm_dtype dtype, int64_t m, int64_t n, const void* dy, int64_t dy_rs,
                                   const void* gate, int64_t gate_rs, const void* up, int64_t up_rs, void* dgate,
                                   int64_t dgate_rs, void* dup, int64_t dup_rs, int threads) {
    const bool any = m > 0 && n > 0;
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(m >= 0 && n >= 0)
                      .array(dy, any)
                      .array(gate, any)
                      .array(up, any)
                      .array(dgate, any)
                      .array(dup, any)
                      .rows_apart(m, dgate_rs, n)
                      .rows_apart(m, dup_rs, n));
    if (!any) return JPLLM_OK;
    return done(table()->swiglu(
        {m, n, in(dy), in(gate), in(up), dy_rs, gate_rs, up_rs, nullptr, out(dgate), out(dup), 0, dgate_rs, dup_rs},
        team_size(threads)));
}

jpllm_status jpllm_adamw_step(jpllm_dtype dtype, int64_t n, void* param, const void* grad, void* exp_avg,
                              void* exp_avg_sq, uint16_t* model_bf16, double lr, double beta1, double beta2, double eps,
                              double weight_decay, int64_t step, double grad_scale, int threads) {
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(n >= 0 && step >= 1)
                      .that(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1 && eps >= 0)
                      .array(param, n > 0)
                      .array(grad, n > 0)
                      .array(exp_avg, n > 0)
                      .array(exp_avg_sq, n > 0)
                      .array(model_bf16, false, 2));
    return done(table()->adamw_step({n, out(param), in(grad), out(exp_avg), out(exp_avg_sq), model_bf16, lr, beta1,
                                     beta2, eps, weight_decay, step, grad_scale},
                                    team_size(threads)));
}

}  // extern "C"
