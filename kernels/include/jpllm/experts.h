/* Mixture of experts: routing, and the way of rows to the experts and back. Included by jpllm_kernels.h, which has the
 * types and the rules. The experts' products are jpllm_gemm_batch (gemm.h), tokens reach them by jpllm_embedding
 * (fused.h) with `token` below for ids.
 *
 * Letters: N tokens, E experts, k experts of a token, M = N k rows in the order of the experts, D width. */
#ifndef JPLLM_EXPERTS_H
#define JPLLM_EXPERTS_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* experts[N,k] and weights[N,k] (FP32) of logits[N,E]. Scores are softmax(logits), or sigmoid(logits). A token's
 * experts are those of the k largest scores + bias[E] (bias FP32, NULL for none), the largest first, of equal ones
 * the one with the lower number. weights are their scores without the bias; with `normalize` over the sum of the k.
 * A NaN among a token's logits gives some k experts, and weights of NaN with softmax. */
jpllm_status jpllm_route(jpllm_dtype dtype, int64_t n, int64_t e, int64_t k, const void* logits, int64_t logits_rs,
                         const float* bias, int sigmoid, int normalize, int64_t* experts, float* weights, int threads);

/* The gradient of the logits from that of the weights; experts and weights are what jpllm_route gave. */
jpllm_status jpllm_route_backward(jpllm_dtype dtype, int64_t n, int64_t e, int64_t k, const void* logits,
                                  int64_t logits_rs, int sigmoid, int normalize, const int64_t* experts,
                                  const float* weights, const float* dweights, void* dlogits, int64_t dlogits_rs,
                                  int threads);

/* The stable order of rows (n, j) by experts[n, j]: row m is of token[M], (n, j) lies at position[N,k], expert e has
 * sizes[E] rows. JPLLM_ERR_INDEX where an expert is outside [0, E). */
jpllm_status jpllm_sort_by_expert(int64_t n, int64_t k, int64_t e, const int64_t* experts, int64_t* token,
                                  int64_t* position, int64_t* sizes);

/* y[N,D]: sum over j, in order, of weights[N,k] times rows position[N,k] of x[M,D], in FP32; all weights are 1 where
 * NULL (the gradient of the way there). */
jpllm_status jpllm_combine(jpllm_dtype dtype, int64_t n, int64_t k, int64_t d, const int64_t* position,
                           const float* weights, const void* x, int64_t x_rs, void* y, int64_t y_rs, int threads);

/* dx[M,D] and dweights[N,k] from dy[N,D]. position is a permutation of 0 .. M - 1. */
jpllm_status jpllm_combine_backward(jpllm_dtype dtype, int64_t n, int64_t k, int64_t d, const int64_t* position,
                                    const float* weights, const void* x, int64_t x_rs, const void* dy, int64_t dy_rs,
                                    void* dx, int64_t dx_rs, float* dweights, int threads);

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_EXPERTS_H */
