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

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_PROBE_H */
