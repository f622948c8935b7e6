// One instruction set's unit: all kernels, compiled with that set's flags, and the table of them. CMakeLists.txt
// compiles this file once an instruction set, with JPLLM_UNIT_<SET> defined.
#include "elementwise.h"
#include "gemm.h"
#include "logsumexp.h"
#include "norm.h"

#define JPLLM_JOIN2(a, b) a##b
#define JPLLM_JOIN(a, b) JPLLM_JOIN2(a, b)
#define JPLLM_QUOTE2(a) #a
#define JPLLM_QUOTE(a) JPLLM_QUOTE2(a)

namespace jpllm {

extern const KernelTable JPLLM_JOIN(kTable_, JPLLM_ISA_NAME) = {
    JPLLM_QUOTE(JPLLM_ISA_NAME),
    JPLLM_ISA_NAME::V::N,
    JPLLM_ISA_NAME::gemm,
    JPLLM_ISA_NAME::column_sum,
    JPLLM_ISA_NAME::rms_norm,
    JPLLM_ISA_NAME::rms_norm_backward,
    JPLLM_ISA_NAME::swiglu,
    JPLLM_ISA_NAME::linear_logsumexp,
    JPLLM_ISA_NAME::linear_logsumexp_backward,
    JPLLM_ISA_NAME::adamw_step,
    JPLLM_ISA_NAME::fma_rounds,
};

}  // namespace jpllm
