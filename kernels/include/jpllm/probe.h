/* What the machine can do at most. Included by jpllm_kernels.h, which has the types and the rules. */
#ifndef JPLLM_PROBE_H
#define JPLLM_PROBE_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Measures the FP32 multiply-add peak of the instruction set in use: independent chains in registers for about
 * `seconds` of CPU time on each of `threads` threads. *flops is the sum over threads of flop a second of CPU time. */
jpllm_status jpllm_fma_peak(double seconds, int threads, double* flops);

/* The same for BF16 products summed in FP32. *has_dot says whether the instruction set in use has a dot product of
 * BF16; where it has none BF16 is converted, and the FP32 peak is BF16's too. */
jpllm_status jpllm_dot_peak(double seconds, int threads, double* flops, int* has_dot);

/* Memory bandwidth, as STREAM counts it (McCalpin, 1995): c = a (8 bytes an element) or c = a + s b (12), over arrays
 * of `n` floats that the threads which use them touched first. *bytes_a_second is the best of passes that take about
 * `seconds` in all, two at least: bytes over the CPU time of the slowest thread. With past_caches the stores do not
 * read the lines they fill, where the instruction set has such stores. */
typedef enum jpllm_stream_kind { JPLLM_STREAM_COPY = 0, JPLLM_STREAM_TRIAD = 1 } jpllm_stream_kind;
int jpllm_stream_has_past_caches(void);
jpllm_status jpllm_stream(jpllm_stream_kind kind, int past_caches, int64_t n, double seconds, int threads,
                          double* bytes_a_second);

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_PROBE_H */
