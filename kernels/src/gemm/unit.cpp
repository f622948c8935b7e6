// The matrix products of one instruction set: CMakeLists.txt compiles this file once a set, with JPLLM_UNIT_<SET>
// defined.
#include "../core/isas.h"
#include "args.h"
#include "column_sum.h"
#include "gemm.h"
#include "grouped.h"
#include "prepack.h"

namespace jpllm {

JPLLM_DEFINE_TABLE(GemmTable) = {
    JPLLM_ISA_NAME::gemm,
    JPLLM_ISA_NAME::gemm_batch,
    {JPLLM_ISA_NAME::column_sum<float>, JPLLM_ISA_NAME::column_sum<bf16>, JPLLM_ISA_NAME::column_sum<fp16>},
    JPLLM_ISA_NAME::gemm_team,
    JPLLM_ISA_NAME::gemm_floats,
    JPLLM_ISA_NAME::packed_bytes,
    JPLLM_ISA_NAME::pack_b,
    JPLLM_ISA_NAME::packed_fits,
};

}  // namespace jpllm
