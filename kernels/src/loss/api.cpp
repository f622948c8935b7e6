// The loss: the C functions. They check arguments and call the table of the instruction set in use.
#include "../core/check.h"
#include "args.h"

JPLLM_LOOK_UP(LossTable)

namespace {

using namespace jpllm;

HeadArgs head_of(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden, int64_t hidden_rs,
                 int64_t hidden_cs, const void* weight, int64_t weight_rs, int64_t weight_cs, const int64_t* targets,
                 jpllm_math math, int math_chunk) {
    return {n,
            v,
            d,
            static_cast<StorageType>(storage_type(dtype)),
            hidden,
            hidden_rs,
            hidden_cs,
            weight,
            weight_rs,
            weight_cs,
            targets,
            math == JPLLM_MATH_FP16_CHUNK ? kFp16Chunk : kExact,
            math_chunk > 0 ? math_chunk : 32};
}

Check head_check(jpllm_dtype dtype, const HeadArgs& h, jpllm_math math) {
    const size_t element = element_size(dtype);
    return Check()
        .storage(dtype)
        .that(math == JPLLM_MATH_EXACT || math == JPLLM_MATH_FP16_CHUNK)
        .that(h.math == kExact || h.chunk == 16 || h.chunk == 32 || h.chunk == 64 || h.chunk == 128)
        .that(h.math == kExact || dtype == JPLLM_FP16, JPLLM_ERR_DTYPE)
        .that(h.n >= 0 && h.v >= 1 && h.d >= 0)
        .array(h.hidden, h.n > 0 && h.d > 0, element)
        .array(h.weight, h.n > 0 && h.d > 0, element)
        .array(h.targets, h.n > 0, 8);
}

}  // namespace

extern "C" {

jpllm_status jpllm_linear_logsumexp(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden,
                                    int64_t hidden_rs, int64_t hidden_cs, const void* weight, int64_t weight_rs,
                                    int64_t weight_cs, const int64_t* targets, float* lse, float* target_logit,
                                    jpllm_math math, int math_chunk, int threads) {
    const HeadArgs head =
        head_of(dtype, n, v, d, hidden, hidden_rs, hidden_cs, weight, weight_rs, weight_cs, targets, math, math_chunk);
    JPLLM_REQUIRE(head_check(dtype, head, math).array(lse, n > 0).array(target_logit, n > 0));
    return done(table()->linear_logsumexp({head, lse, target_logit}, team_size(threads)));
}

jpllm_status jpllm_linear_logsumexp_backward(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden,
                                             int64_t hidden_rs, int64_t hidden_cs, const void* weight,
                                             int64_t weight_rs, int64_t weight_cs, const int64_t* targets,
                                             const float* lse, const float* dlse, const float* dtarget_logit,
                                             void* dhidden, float* dweight, jpllm_math math, int math_chunk,
                                             int threads) {
    const HeadArgs head =
        head_of(dtype, n, v, d, hidden, hidden_rs, hidden_cs, weight, weight_rs, weight_cs, targets, math, math_chunk);
    JPLLM_REQUIRE(head_check(dtype, head, math)
                      .array(lse, n > 0)
                      .array(dlse, n > 0)
                      .array(dtarget_logit, n > 0)
                      .array(dhidden, false, element_size(dtype))
                      .array(dweight, false));
    return done(
        table()->linear_logsumexp_backward({head, lse, dlse, dtarget_logit, dhidden, dweight}, team_size(threads)));
}

jpllm_status jpllm_linear_cross_entropy(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden,
                                        int64_t hidden_rs, int64_t hidden_cs, const void* weight, int64_t weight_rs,
                                        int64_t weight_cs, const int64_t* targets, double z_loss, double* sums,
                                        void* dhidden, float* dweight, jpllm_math math, int math_chunk, int threads) {
    const HeadArgs head =
        head_of(dtype, n, v, d, hidden, hidden_rs, hidden_cs, weight, weight_rs, weight_cs, targets, math, math_chunk);
    JPLLM_REQUIRE(head_check(dtype, head, math)
                      .array(sums, true, 8)
                      .array(dhidden, false, element_size(dtype))
                      .array(dweight, false));
    CrossEntropyArgs args{head, z_loss, {0, 0}, dhidden, dweight};
    const jpllm_status status = done(table()->linear_cross_entropy(args, team_size(threads)));
    sums[0] = args.sums[0], sums[1] = args.sums[1];
    return status;
}

}  // extern "C"
