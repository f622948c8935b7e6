// The fused operations of one instruction set: CMakeLists.txt compiles this file once a set, with JPLLM_UNIT_<SET>
// defined.
#include "../core/isas.h"
#include "args.h"
#include "cast.h"
#include "embedding.h"
#include "norm.h"
#include "optimizer.h"
#include "rotary.h"
#include "softmax.h"
#include "swiglu.h"

namespace jpllm {

namespace isa = JPLLM_ISA_NAME;

JPLLM_DEFINE_TABLE(FusedTable) = {
    {isa::norm<float, false>, isa::norm<bf16, false>, isa::norm<fp16, false>},
    {isa::norm_backward<float, false>, isa::norm_backward<bf16, false>, isa::norm_backward<fp16, false>},
    {isa::norm<float, true>, isa::norm<bf16, true>, isa::norm<fp16, true>},
    {isa::norm_backward<float, true>, isa::norm_backward<bf16, true>, isa::norm_backward<fp16, true>},
    {isa::swiglu<float>, isa::swiglu<bf16>, isa::swiglu<fp16>},
    {isa::rotary<float>, isa::rotary<bf16>, isa::rotary<fp16>},
    {isa::softmax<float>, isa::softmax<bf16>, isa::softmax<fp16>},
    {{isa::cast<float, float>, isa::cast<float, bf16>, isa::cast<float, fp16>},
     {isa::cast<bf16, float>, isa::cast<bf16, bf16>, isa::cast<bf16, fp16>},
     {isa::cast<fp16, float>, isa::cast<fp16, bf16>, isa::cast<fp16, fp16>}},
    {isa::embedding<float>, isa::embedding<bf16>, isa::embedding<fp16>},
    {isa::embedding_backward<float>, isa::embedding_backward<bf16>, isa::embedding_backward<fp16>},
    {{isa::adamw_step<float, float>, isa::adamw_step<float, bf16>, isa::adamw_step<float, fp16>},
     {isa::adamw_step<bf16, float>, isa::adamw_step<bf16, bf16>, isa::adamw_step<bf16, fp16>},
     {isa::adamw_step<fp16, float>, isa::adamw_step<fp16, bf16>, isa::adamw_step<fp16, fp16>}},
    {isa::sum_of_squares<float>, isa::sum_of_squares<bf16>, isa::sum_of_squares<fp16>},
};

}  // namespace jpllm
