/* Matrix products. Included by jpllm_kernels.h, which has the types and the rules. */
#ifndef JPLLM_GEMM_H
#define JPLLM_GEMM_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A matrix in memory: element (i, j) is element i * rs + j * cs of data. A stride of 0 repeats; data NULL is none. */
typedef struct jpllm_matrix {
    void* data;
    int64_t rs, cs;
    jpllm_dtype dtype; /* FP32, BF16 or FP16 */
} jpllm_matrix;

/* How a product is summed.
 * EXACT: products and sums in FP32.
 * FP16_CHUNK, for FP16 a, b and up: FP16 multiply-adds over `math_chunk` steps of K, each rounded once, the sum of a
 *   chunk then added to an FP32 one, chunk by chunk in order from 0 (from c, where that is FP32 and accumulates). FP16
 *   denormals count as zero, as inputs and as results before rounding (FPCR.FZ16). A64FX computes it at nearly twice
 *   the rate of FP32; elsewhere it is simulated, slowly, with the same bits (but for the payload of a NaN).
 *   Error of an element before it is rounded to c's type, where no sum of a chunk reaches 65520: at most
 *   math_chunk 2^-11 sum |a b| + 2^-14 sum (1 + |a| + |b|), the latter for what is flushed, and K u sum |a b|.
 * INT16, for a, b and up of any type: in each block of 512 steps of K every row of a and column of b is rounded to
 *   multiples of a power of two of its own, to nearest, ties to even, so that the largest is 2^14 to 32767 of them.
 *   Their products are summed exactly over the block; its sum is rounded once to FP32 and added to that of the blocks
 *   before, in order (from c, where that is FP32 and accumulates). FP32 denormals count as zero: read, and made before
 *   they are rounded. A NaN or an infinity in a row of a makes that row of the result NaN, in a column of b that
 *   column. A64FX computes it at nearly twice the rate of FP32; elsewhere it has the same bits, slowly.
 *   Error of an element before it is rounded to c's type: a block adds at most s_b / 2 sum |a| + s_a / 2 sum |b| +
 *   512 s_a s_b / 4, where s_a = max(2^-14 (1 + 2^-15) max |a|, 2^-125) over the row's part in the block and s_b over
 *   the column's; and all of it (K / 512 + 2) u sum |a b|, and 2^-125 a block, where no sum overflows. Whole numbers up
 * to 32767 are exact. */
typedef enum jpllm_math { JPLLM_MATH_EXACT = 0, JPLLM_MATH_FP16_CHUNK = 1, JPLLM_MATH_INT16 = 2 } jpllm_math;

/* C[M,N] = A[M,K] B[K,N] + bias + residual (+ C, where accumulate is not 0). With `up` [K,N]:
 * C = silu(A B) * (A up) + ..., and gate_out = A B, up_out = A up where they have memory (for the backward).
 * All sums are FP32 whatever the types (but see math), and each element of a result is rounded once, to nearest, ties
 * to even. bias and residual are [M,N]: a bias of the columns has rs = 0. Transposed operands are a swap of strides.
 * Error of an element before that rounding: at most (k_b + K / k_b + 4) u sum |a b|, u = 2^-24, where k_b <= 512 is the
 * length of a block of K; rounding errors add up like a walk, so that sqrt(K) u sum |a b| is what is seen. On
 * avx512bf16 BF16 times BF16 has k_b <= 1024 and takes denormals, read or made, for zero: 2^-126 (1 + |a| + |b|) more a
 * step of K. */
typedef struct jpllm_gemm_args {
    int64_t m, n, k;
    jpllm_matrix a, b, c;
    jpllm_matrix bias, residual;
    jpllm_matrix up, gate_out, up_out;
    int accumulate;
    jpllm_math math;
    int math_chunk;       /* 16, 32, 64 or 128; 0 is 32 */
    const void* packed_b; /* b by jpllm_gemm_pack_b, or NULL */
} jpllm_gemm_args;

jpllm_status jpllm_gemm_with(const jpllm_gemm_args* args, int threads);

/* b packed once for many products with it, whatever their m. It is another copy: as large as b, or twice as large where
 * b has 16 bits and is converted. It is used where b would be packed, else b itself is read; the bits are the same.
 * n, k, b, the dtype of a, math and math_chunk of the arguments say what it is of, and those of a product must be alike
 * and the instruction set the same, else that returns JPLLM_ERR_PACKED. Not for up. `packed` is aligned to 64 bytes. */
int64_t jpllm_gemm_packed_bytes(const jpllm_gemm_args* args); /* -1 where the arguments are not right */
jpllm_status jpllm_gemm_pack_b(const jpllm_gemm_args* args, void* packed, int threads);

/* Many products at once, balanced over the threads: the ragged groups of experts, batches of small ones. Each has the
 * same bits as by itself. Results must not overlap. */
jpllm_status jpllm_gemm_batch(int64_t count, const jpllm_gemm_args* products, int threads);

/* The plain product of one type: C = A B + bias[N], or C += ... where accumulate is not 0. bias may be NULL. */
jpllm_status jpllm_gemm(jpllm_dtype dtype, int64_t m, int64_t n, int64_t k, const void* a, int64_t a_rs, int64_t a_cs,
                        const void* b, int64_t b_rs, int64_t b_cs, void* c, int64_t c_rs, int64_t c_cs,
                        const void* bias, int accumulate, int threads);

/* out[N] = sum over rows of x[M,N], in FP32 (the gradient of a bias). */
jpllm_status jpllm_column_sum(jpllm_dtype dtype, int64_t m, int64_t n, const void* x, int64_t x_rs, float* out,
                              int threads);

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_GEMM_H */
