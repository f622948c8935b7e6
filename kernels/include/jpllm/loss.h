/* The loss of a language model. Included by jpllm_kernels.h, which has the types and the rules.
 *
 * logits = hidden[N,D] weight[V,D]^T are never held whole. hidden and weight are FP32, BF16 or FP16, both alike; sums
 * and the weight's gradient are FP32. A target outside [0, V) is none. Where BF16 is multiplied as such (avx512bf16),
 * the logits' gradients are rounded to BF16 before their products with weight and hidden: an error of 2^-8 of the sum
 * of the absolute terms at most; logits are FP32 everywhere.
 *
 * math and math_chunk are those of all products, as in jpllm_gemm_args; FP16_CHUNK takes FP16. Then the logits have the
 * bits that jpllm_gemm_with gives them. Their gradients are multiplied by a power of two, rounded to FP16 and
 * multiplied in chunks: the largest power with which no chunk's sum can overflow, one for dhidden and one for dweight
 * (src/loss/halves.h). Beside FP16_CHUNK's error with those operands that is 2^-11 of the sum of the absolute terms,
 * and what is below 2^-14 then counts as zero.
 */
#ifndef JPLLM_LOSS_H
#define JPLLM_LOSS_H

#include "gemm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* lse[N] = log sum exp(logits), target_logit[N] = logits[n, targets[n]], or 0 without a target. */
jpllm_status jpllm_linear_logsumexp(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden,
                                    int64_t hidden_rs, int64_t hidden_cs, const void* weight, int64_t weight_rs,
                                    int64_t weight_cs, const int64_t* targets, float* lse, float* target_logit,
                                    jpllm_math math, int math_chunk, int threads);

/* Gradients, given those of lse and target_logit. dhidden[N,D], of the dtype, and dweight[V,D] are contiguous; either
 * may be NULL. */
jpllm_status jpllm_linear_logsumexp_backward(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden,
                                             int64_t hidden_rs, int64_t hidden_cs, const void* weight,
                                             int64_t weight_rs, int64_t weight_cs, const int64_t* targets,
                                             const float* lse, const float* dlse, const float* dtarget_logit,
                                             void* dhidden, float* dweight, jpllm_math math, int math_chunk,
                                             int threads);

/* sums[0] = sum over tokens with a target of lse - target_logit, sums[1] = z_loss times that of lse^2, and the
 * gradients of sums[0] + sums[1], made on the way. dhidden and dweight as above. */
jpllm_status jpllm_linear_cross_entropy(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden,
                                        int64_t hidden_rs, int64_t hidden_cs, const void* weight, int64_t weight_rs,
                                        int64_t weight_cs, const int64_t* targets, double z_loss, double* sums,
                                        void* dhidden, float* dweight, jpllm_math math, int math_chunk, int threads);

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_LOSS_H */
