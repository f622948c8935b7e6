/* Types and status codes, instruction sets and threads. Included by jpllm_kernels.h, which has the rules. */
#ifndef JPLLM_COMMON_H
#define JPLLM_COMMON_H

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
    JPLLM_ERR_ISA = 5,       /* unknown instruction set, or one that this CPU lacks */
    JPLLM_ERR_INDEX = 6,     /* an index in an array is outside of what it counts */
    JPLLM_ERR_PACKED = 7     /* a packed operand is of another product, type or instruction set */
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

#ifdef __cplusplus
}
#endif

#endif /* JPLLM_COMMON_H */
