/* Fused operations over rows and flat buffers. Included by jpllm_kernels.h, which has the types and the rules. */
#ifndef JPLLM_FUSED_H
#define JPLLM_FUSED_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps) a row; rstd[M] is kept for the backward. */
jpllm_status jpllm_rms_norm(jpllm_dtype dtype, int64_t m, int64_t d, const void* x, int64_t x_rs, const void* weight,
                            double eps, void* y, int64_t y_rs, void* rstd, int threads);

/* dx = rstd (w dy) - x rstd^3 / D sum(w dy x) a row; dweight[D] = sum over rows of dy x rstd. */
jpllm_status jpllm_rms_norm_backward(jpllm_dtype dtype, int64_t m, int64_t d, const void* dy, int64_t dy_rs,
                                     const void* x, int64_t x_rs, const void* weight, const void* rstd, void* dx,
                                     int64_t dx_rs, void* dweight, int threads);

/* y = silu(gate) * up, silu(g) = g / (1 + exp(-g)). */
jpllm_status jpllm_swiglu(jpllm_dtype dtype, int64_t m, int64_t n, const void* gate, int64_t gate_rs, const void* up,
                          int64_t up_rs, void* y, int64_t y_rs, int threads);

jpllm_status jpllm_swiglu_backward(jpllm_dtype dtype, int64_t m, int64_t n, const void* dy, int64_t dy_rs,
                                   const void* gate, int64_t gate_rs, const void* up, int64_t up_rs, void* dgate,
                                   int64_t dgate_rs, void* dup, int64_t dup_rs, int threads);

/* One AdamW step in place on flat buffers (Loshchilov & Hutter, arXiv:1711.05101; eps is added to sqrt(v_hat)).
 * The gradient is multiplied by grad_scale first. model_bf16 may be NULL; else it receives param rounded to bfloat16
 * (nearest, ties to even). step counts from 1. */
jpllm_status jpllm_adamw_step(jpllm_dtype dtype, int64_t n, void* param, const void* grad, void* exp_avg,
                              void* exp_avg_sq, uint16_t* model_bf16, double lr, double beta1, double beta2, double eps,
                              double weight_decay, int64_t step, double grad_scale, int threads);

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_FUSED_H */
