// The probes of one instruction set: CMakeLists.txt compiles this file once a set, with JPLLM_UNIT_<SET> defined.
#include "../core/isas.h"
#include "args.h"
#include "peak.h"
#include "stream.h"

#define JPLLM_QUOTE2(a) #a
#define JPLLM_QUOTE(a) JPLLM_QUOTE2(a)

namespace jpllm {

JPLLM_DEFINE_TABLE(ProbeTable) = {
    JPLLM_QUOTE(JPLLM_ISA_NAME),
    JPLLM_ISA_NAME::V::N,
    JPLLM_ISA_NAME::fma_rounds,
    JPLLM_ISA_NAME::kDotRounds,
    {JPLLM_ISA_NAME::stream_copy, JPLLM_ISA_NAME::stream_triad},
    JPLLM_ISA_NAME::kHasPastCaches,
};

}  // namespace jpllm
