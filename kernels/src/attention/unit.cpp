// Attention on one instruction set: CMakeLists.txt compiles this file once a set, with JPLLM_UNIT_<SET> defined.
#include "../core/isas.h"
#include "args.h"
#include "backward.h"
#include "forward.h"

namespace jpllm {

JPLLM_DEFINE_TABLE(AttentionTable) = {
    {JPLLM_ISA_NAME::attention_forward<float>, JPLLM_ISA_NAME::attention_forward<bf16>,
     JPLLM_ISA_NAME::attention_forward<fp16>},
    {JPLLM_ISA_NAME::attention_backward<float>, JPLLM_ISA_NAME::attention_backward<bf16>,
     JPLLM_ISA_NAME::attention_backward<fp16>},
};

}  // namespace jpllm
