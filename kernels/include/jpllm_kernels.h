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

#include "jpllm/attention.h"
#include "jpllm/common.h"
#include "jpllm/experts.h"
#include "jpllm/fused.h"
#include "jpllm/gemm.h"
#include "jpllm/loss.h"
#include "jpllm/probe.h"

#endif /* JPLLM_KERNELS_H */
