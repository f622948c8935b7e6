// The loss: the C functions. They check arguments and call the table of the instruction set in use.
#include <string.h>

#include "../core/check.h"
#include "args.h"

JPLLM_LOOK_UP(LossTable)

namespace {

using namespace jpllm;

const float* in(const void* p) { return static_cast<const float*>(p); }
float* out(void* p) { return static_cast<float*>(p); }

}  // namespace

extern "C" {

jpllm_status jpllm_linear_logsumexp(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden,
                                    int64_t hidden_rs, int64_t hidden_cs, const void* weight, int64_t weight_rs,
                                    int64_t weight_cs, const int64_t* targets, void* lse, void* target_logit,
                                    int threads) {
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(n >= 0 && v >= 1 && d >= 0)
                      .array(hidden, n > 0 && d > 0)
                      .array(weight, n > 0 && d > 0)
                      .array(targets, n > 0, 8)
                      .array(lse, n > 0)
                      .array(target_logit, n > 0));
    return done(
        table()->linear_logsumexp({n, v, d, in(hidden), hidden_rs, hidden_cs, in(weight), weight_rs, weight_cs, targets,
                                   out(lse), out(target_logit), nullptr, nullptr, nullptr, nullptr, nullptr},
                                  team_size(threads)));
}

jpllm_status jpllm_linear_logsumexp_backward(jpllm_dtype dtype, int64_t n, int64_t v, int64_t d, const void* hidden,
                                             int64_t hidden_rs, int64_t hidden_cs, const void* weight,
                                             int64_t weight_rs, int64_t weight_cs, const int64_t* targets,
                                             const void* lse, const void* dlse, const void* dtarget_logit,
                                             void* dhidden, void* dweight, int threads) {
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(n >= 0 && v >= 1 && d >= 0)
                      .array(hidden, n > 0 && d > 0)
                      .array(weight, n > 0 && d > 0)
                      .array(targets, n > 0, 8)
                      .array(lse, n > 0)
                      .array(dlse, n > 0)
                      .array(dtarget_logit, n > 0)
                      .array(dhidden, false)
                      .array(dweight, false));
    if (n == 0 && dweight != nullptr) {
        memset(dweight, 0, static_cast<size_t>(v * d) * sizeof(float));
        return JPLLM_OK;
    }
    return done(table()->linear_logsumexp_backward(
        {n, v, d, in(hidden), hidden_rs, hidden_cs, in(weight), weight_rs, weight_cs, targets, nullptr, nullptr,
         in(lse), in(dlse), in(dtarget_logit), out(dhidden), out(dweight)},
        team_size(threads)));
}

}  // extern "C"
