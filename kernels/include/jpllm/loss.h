/* The loss of a language model. Included by jpllm_kernels.h, which has the types and the rules. */
#ifndef JPLLM_LOSS_H
#define JPLLM_LOSS_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* With logits = hidden[N,D] weight[V,D]^T, never held whole: lse[N] = log sum exp(logits), target_logit[N] =
 * logits[n, targets[n]], or 0 where targets[n] is outside [0, V). */
jpllm_status jpllm_linear_logsumexp(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden,
                                    int64_t hidden_rs, int64_t hidden_cs, const void* weight, int64_t weight_rs,
                                    int64_t weight_cs, const int64_t* targets, void* lse, void* target_logit,
                                    int threads);

/* Gradients, given those of lse and target_logit. dhidden[N,D] and dweight[V,D] are contiguous; either may be NULL. */
jpllm_status jpllm_linear_logsumexp_backward(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden,
                                             int64_t hidden_rs, int64_t hidden_cs, const void* weight,
                                             int64_t weight_rs, int64_t weight_cs, const int64_t* targets,
                                             const void* lse, const void* dlse, const void* dtarget_logit,
                                             void* dhidden, void* dweight, int threads);

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_LOSS_H */
