// The experts' operations of one instruction set: CMakeLists.txt compiles this file once a set, with
// JPLLM_UNIT_<SET> defined.
#include "../core/isas.h"
#include "args.h"
#include "routing.h"

namespace jpllm {

namespace isa = JPLLM_ISA_NAME;

JPLLM_DEFINE_TABLE(ExpertsTable) = {
    {isa::route<float>, isa::route<bf16>, isa::route<fp16>},
    {isa::combine<float>, isa::combine<bf16>, isa::combine<fp16>},
};

}  // namespace jpllm
