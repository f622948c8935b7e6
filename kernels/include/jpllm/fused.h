/* Fused operations over rows and flat buffers. Included by jpllm_kernels.h, which has the types and the rules. */
#ifndef JPLLM_FUSED_H
#define JPLLM_FUSED_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* dtype is the storage type of all arrays but those said to be FP32: FP32, BF16 or FP16. Arithmetic, sums and what is
 * kept of a row for the backward (mean[M], rstd[M]) are FP32. Rows have their elements side by side. An output may be
 * an input of the same shape, but dweight and dbias. */

/* Outputs of at least so many bytes are written past the caches, which saves reading what they were; < 0: the size of
 * the last level of cache, as at start. Returns what was set. The results are the same bits. */
int64_t jpllm_set_past_caches(int64_t bytes);

/* y = h * rstd * weight, rstd = 1 / sqrt(mean(h^2) + eps) a row. h = x where update is NULL; else sum = h = x + update,
 * rounded to dtype. */
jpllm_status jpllm_rms_norm(jpllm_dtype dtype, int64_t m, int64_t d, const void* x, int64_t x_rs, const void* update,
                            int64_t update_rs, const void* weight, double eps, void* sum, int64_t sum_rs, void* y,
                            int64_t y_rs, void* rstd, int threads);

/* y = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(mean((x - mean)^2) + eps) a row. */
jpllm_status jpllm_layer_norm(jpllm_dtype dtype, int64_t m, int64_t d, const void* x, int64_t x_rs, const void* weight,
                              const void* bias, double eps, void* y, int64_t y_rs, void* mean, void* rstd, int threads);

/* Backward of both; mean and dbias are NULL for rms_norm. With xhat = (x - mean) rstd and g = w dy:
 * dx = rstd (g - xhat mean(g xhat) - mean(g)) + dsum a row, without mean(g) for rms_norm and without dsum where NULL
 * (the gradient of rms_norm's `sum`, x being that sum); dweight[D] = sum over rows of dy xhat, dbias[D] = that of dy.
 */
jpllm_status jpllm_norm_backward(jpllm_dtype dtype, int64_t m, int64_t d, const void* dy, int64_t dy_rs, const void* x,
                                 int64_t x_rs, const void* dsum, int64_t dsum_rs, const void* weight, const void* mean,
                                 const void* rstd, void* dx, int64_t dx_rs, void* dweight, void* dbias, int threads);

/* y = silu(gate) * up, silu(g) = g / (1 + exp(-g)). */
jpllm_status jpllm_swiglu(jpllm_dtype dtype, int64_t m, int64_t n, const void* gate, int64_t gate_rs, const void* up,
                          int64_t up_rs, void* y, int64_t y_rs, int threads);

jpllm_status jpllm_swiglu_backward(jpllm_dtype dtype, int64_t m, int64_t n, const void* dy, int64_t dy_rs,
                                   const void* gate, int64_t gate_rs, const void* up, int64_t up_rs, void* dgate,
                                   int64_t dgate_rs, void* dup, int64_t dup_rs, int threads);

/* y = exp(x - max(x)) / sum of that, a row; a NaN or an infinite maximum makes the whole row NaN. */
jpllm_status jpllm_softmax(jpllm_dtype dtype, int64_t m, int64_t n, const void* x, int64_t x_rs, void* y, int64_t y_rs,
                           int threads);

/* dx = y * (dy - sum of dy y), a row. */
jpllm_status jpllm_softmax_backward(jpllm_dtype dtype, int64_t m, int64_t n, const void* dy, int64_t dy_rs,
                                    const void* y, int64_t y_rs, void* dx, int64_t dx_rs, int threads);

/* y = x * scale, rounded to `to`; *finite = whether every element of y is finite. In place where from is to. */
jpllm_status jpllm_cast(jpllm_dtype from, jpllm_dtype to, int64_t m, int64_t n, const void* x, int64_t x_rs, void* y,
                        int64_t y_rs, double scale, int* finite, int threads);

/* [batch, tokens, heads, head_size], by the strides of the first three. */
typedef struct jpllm_rotary_heads {
    int64_t heads;
    const void* x;
    int64_t x_stride[3];
    void* y;
    int64_t y_stride[3];
} jpllm_rotary_heads;

/* Channels i and i + head_size / 2 of q's and k's heads turned by the angles of table[batch, tokens, head_size], FP32:
 * the cosines of half the channels, then the sines. `inverse` turns back, which is the backward. */
jpllm_status jpllm_rotary(jpllm_dtype dtype, int64_t batch, int64_t tokens, int64_t head_size,
                          const jpllm_rotary_heads* q, const jpllm_rotary_heads* k, const void* table,
                          const int64_t* table_stride, int inverse, int threads);

/* y[N,D] = rows ids[N] of table[V,D]. JPLLM_ERR_INDEX, and y unspecified, where an id is outside [0, V). */
jpllm_status jpllm_embedding(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const int64_t* ids, const void* table,
                             int64_t table_rs, void* y, int64_t y_rs, int threads);

/* dtable[V,D]: row r is the sum of dy's rows of the tokens whose id is r, in FP32, in the order of the tokens. */
jpllm_status jpllm_embedding_backward(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const int64_t* ids,
                                      const void* dy, int64_t dy_rs, void* dtable, int64_t dtable_rs, int threads);

/* One AdamW step in place on flat buffers (Loshchilov & Hutter, arXiv:1711.05101; eps is added to sqrt(v_hat)).
 * The gradient, of any storage type, is multiplied by grad_scale first. model may be NULL; else it receives param
 * rounded to its type. step counts from 1. */
jpllm_status jpllm_adamw_step(int64_t n, float* param, jpllm_dtype grad_dtype, const void* grad, float* exp_avg,
                              float* exp_avg_sq, jpllm_dtype model_dtype, void* model, double lr, double beta1,
                              double beta2, double eps, double weight_decay, int64_t step, double grad_scale,
                              int threads);

/* *sum = the sum of x^2 over a flat buffer, squared and summed in FP64: it is finite where and only where all of x is.
 * Relative error at most (1100 + n / 2^14) 2^-53. */
jpllm_status jpllm_sum_of_squares(jpllm_dtype dtype, int64_t n, const void* x, double* sum, int threads);

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_FUSED_H */
