// The loss of one instruction set: CMakeLists.txt compiles this file once a set, with JPLLM_UNIT_<SET> defined.
#include "../core/isas.h"
#include "args.h"
#include "cross_entropy.h"

namespace jpllm {

JPLLM_DEFINE_TABLE(LossTable) = {
    JPLLM_ISA_NAME::linear_logsumexp,
    JPLLM_ISA_NAME::linear_logsumexp_backward,
    JPLLM_ISA_NAME::linear_cross_entropy,
};

}  // namespace jpllm
