// The matrix products: the C functions. They check arguments and call the table of the instruction set in use.
#include <string.h>

#include "../core/check.h"
#include "args.h"

JPLLM_LOOK_UP(GemmTable)

namespace {

using namespace jpllm;

const float* in(const void* p) { return static_cast<const float*>(p); }
float* out(void* p) { return static_cast<float*>(p); }

}  // namespace

extern "C" {

jpllm_status jpllm_gemm(jpllm_dtype dtype, int64_t m, int64_t n, int64_t k, const void* a, int64_t a_rs, int64_t a_cs,
                        const void* b, int64_t b_rs, int64_t b_cs, void* c, int64_t c_rs, int64_t c_cs,
                        const void* bias, int accumulate, int threads) {
    const auto size = [](int64_t x) { return x < 0 ? -x : x; };
    const bool rows_outer = size(c_rs) >= size(c_cs);
    JPLLM_REQUIRE(
        Check()
            .fp32(dtype)
            .that(m >= 0 && n >= 0 && k >= 0)
            .array(a, m > 0 && k > 0)
            .array(b, k > 0 && n > 0)
            .array(c, m > 0 && n > 0)
            .array(bias, false)
            .that(m * n == 0 || ((n == 1 || c_cs != 0) && (m == 1 || c_rs != 0)))
            .that(m <= 1 || n <= 1 ||
                  (rows_outer ? size(c_rs) >= size(c_cs) * (n - 1) + 1 : size(c_cs) >= size(c_rs) * (m - 1) + 1)));
    return done(table()->gemm({m, n, k, in(a), a_rs, a_cs, in(b), b_rs, b_cs, out(c), c_rs, n == 1 ? 1 : c_cs, in(bias),
                               0, 1, accumulate != 0},
                              team_size(threads)));
}

jpllm_status jpllm_column_sum(jpllm_dtype dtype, int64_t m, int64_t n, const void* x, int64_t x_rs, void* o,
                              int threads) {
    JPLLM_REQUIRE(Check().fp32(dtype).that(m >= 0 && n >= 0).array(x, m > 0 && n > 0).array(o, n > 0));
    return done(table()->column_sum({m, n, in(x), x_rs, out(o)}, team_size(threads)));
}

}  // extern "C"
