/* Matrix products. Included by jpllm_kernels.h, which has the types and the rules. */
#ifndef JPLLM_GEMM_H
#define JPLLM_GEMM_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* C[M,N] = A[M,K] B[K,N] + bias[N], or C += ... where accumulate is not 0. bias may be NULL.
 * (row, column) strides on every operand: transposed operands are a swap of strides. */
jpllm_status jpllm_gemm(jpllm_dtype dtype, int64_t m, int64_t n, int64_t k, const void* a, int64_t a_rs, int64_t a_cs,
                        const void* b, int64_t b_rs, int64_t b_cs, void* c, int64_t c_rs, int64_t c_cs,
                        const void* bias, int accumulate, int threads);

/* out[N] = sum over rows of x[M,N] (the gradient of a bias). */
jpllm_status jpllm_column_sum(jpllm_dtype dtype, int64_t m, int64_t n, const void* x, int64_t x_rs, void* out,
                              int threads);

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_GEMM_H */
