// The fused operations of one instruction set: CMakeLists.txt compiles this file once a set, with JPLLM_UNIT_<SET>
// defined.
#include "../core/isas.h"
#include "adamw.h"
#include "args.h"
#include "elementwise.h"
#include "norm.h"

namespace jpllm {

JPLLM_DEFINE_TABLE(FusedTable) = {
    JPLLM_ISA_NAME::rms_norm,
    JPLLM_ISA_NAME::rms_norm_backward,
    JPLLM_ISA_NAME::swiglu,
    JPLLM_ISA_NAME::adamw_step,
};

}  // namespace jpllm
