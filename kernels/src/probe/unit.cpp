// The probes of one instruction set: CMakeLists.txt compiles this file once a set, with JPLLM_UNIT_<SET> defined.
#include "../core/isas.h"
#include "args.h"
#include "peak.h"

#define JPLLM_QUOTE2(a) #a
#define JPLLM_QUOTE(a) JPLLM_QUOTE2(a)

namespace jpllm {

JPLLM_DEFINE_TABLE(ProbeTable) = {
    JPLLM_QUOTE(JPLLM_ISA_NAME),
    JPLLM_ISA_NAME::V::N,
    JPLLM_ISA_NAME::fma_rounds,
};

}  // namespace jpllm
