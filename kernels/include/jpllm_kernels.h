/* The C interface of pyjpllm's compute kernels: one function an operation.
 *
 * Every function takes raw pointers, sizes, strides in ELEMENTS (may be zero for a broadcast input, may be negative),
 * a dtype and a thread count, and returns a status; none throws, prints or aborts. Rows are independent of each other
 * and sums are split only in ways that do not depend on the thread count: the results are the same bits on any number
 * of threads. All pointers must be aligned to their element; a pointer of an empty array may be NULL.
 * Outputs must not overlap inputs unless the function says that it works in place.
 *
 * Letters: M rows of the result, N columns of the result or tokens, K summed dimension, D model width, V vocabulary.
 */
#ifndef JPLLM_KERNELS_H
#define JPLLM_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum jpllm_status {
    JPLLM_OK = 0,
    JPLLM_ERR_ARGUMENT = 1,  /* a negative size, a null pointer, a stride that overlaps rows of an output */
    JPLLM_ERR_DTYPE = 2,     /* this operation has no kernel for the dtype */
    JPLLM_ERR_ALIGNMENT = 3, /* a pointer is not aligned to its element */
    JPLLM_ERR_MEMORY = 4,    /* no memory for the work space */
    JPLLM_ERR_ISA = 5        /* unknown instruction set, or one that this CPU lacks */
} jpllm_status;

typedef enum jpllm_dtype { JPLLM_FP32 = 0, JPLLM_FP64 = 1, JPLLM_BF16 = 2, JPLLM_FP16 = 3 } jpllm_dtype;

/* A sentence for a status. */
const char* jpllm_status_string(jpllm_status status);

/* Instruction sets: all names this build holds and this CPU runs, separated by commas, best first. */
const char* jpllm_isas(void);
/* All names this build holds, whether or not this CPU runs them. */
const char* jpllm_isas_built(void);
/* The one in use: $JPLLM_ISA where set, else the best. NULL where $JPLLM_ISA asks for one that cannot be had. */
const char* jpllm_isa(void);
/* Use this one from now on; NULL or "" chooses anew as at load. Not while another thread is inside a kernel. */
jpllm_status jpllm_set_isa(const char* name);

/* Threads. threads <= 0 anywhere below means: $OMP_NUM_THREADS where set, else the CPUs of the caller's CPU set. */
int jpllm_default_threads(void);
/* "openmp: <path>" when teams come from an OpenMP runtime already in the process, else "own pool". */
const char* jpllm_thread_runtime(void);
/* Paths of all OpenMP runtimes in the process, one a line. The string lives until the next call in this thread. */
const char* jpllm_openmp_runtimes(void);

/* C[M,N] = A[M,K] B[K,N] + bias[N], or C += ... where accumulate is not 0. bias may be NULL.
 * (row, column) strides on every operand: transposed operands are a swap of strides. */
jpllm_status jpllm_gemm(jpllm_dtype dtype, int64_t m, int64_t n, int64_t k, const void* a, int64_t a_rs, int64_t a_cs,
                        const void* b, int64_t b_rs, int64_t b_cs, void* c, int64_t c_rs, int64_t c_cs,
                        const void* bias, int accumulate, int threads);

/* out[N] = sum over rows of x[M,N] (the gradient of a bias). */
jpllm_status jpllm_column_sum(jpllm_dtype dtype, int64_t m, int64_t n, const void* x, int64_t x_rs, void* out,
                              int threads);

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

/* One AdamW step in place on flat buffers (Loshchilov & Hutter, arXiv:1711.05101; eps is added to sqrt(v_hat)).
 * The gradient is multiplied by grad_scale first. model_bf16 may be NULL; else it receives param rounded to bfloat16
 * (nearest, ties to even). step counts from 1. */
jpllm_status jpllm_adamw_step(jpllm_dtype dtype, int64_t n, void* param, const void* grad, void* exp_avg,
                              void* exp_avg_sq, uint16_t* model_bf16, double lr, double beta1, double beta2, double eps,
                              double weight_decay, int64_t step, double grad_scale, int threads);

/* Measures the FP32 multiply-add peak of the instruction set in use: independent chains in registers for about
 * `seconds` of CPU time on each of `threads` threads. *flops is the sum over threads of flop a second of CPU time. */
jpllm_status jpllm_fma_peak(double seconds, int threads, double* flops);

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_KERNELS_H */
