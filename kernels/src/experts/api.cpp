// The experts' operations: the C functions. They check arguments and call the table of the instruction set in use.
#include <string.h>

#include "../core/cache.h"
#include "../core/check.h"
#include "args.h"

JPLLM_LOOK_UP(ExpertsTable)

namespace {

using namespace jpllm;

Check check_route(jpllm_dtype dtype, int64_t n, int64_t e, int64_t k, const void* logits, const float* bias,
                  const int64_t* experts, const float* weights) {
    return Check()
        .storage(dtype)
        .that(n >= 0 && e >= 0 && k >= 0 && k <= e)
        .array(logits, n > 0 && e > 0, element_size(dtype))
        .array(bias, false)
        .array(experts, n > 0 && k > 0, 8)
        .array(weights, n > 0 && k > 0);
}

Check check_combine(jpllm_dtype dtype, int64_t n, int64_t k, int64_t d, const int64_t* position, const float* weights,
                    const void* x, const void* y) {
    const bool any = n > 0 && d > 0;
    return Check()
        .storage(dtype)
        .that(n >= 0 && k >= 0 && d >= 0)
        .array(position, n > 0 && k > 0, 8)
        .array(weights, false)
        .array(x, any && k > 0, element_size(dtype))
        .array(y, any, element_size(dtype));
}

}  // namespace

extern "C" {

jpllm_status jpllm_route(jpllm_dtype dtype, int64_t n, int64_t e, int64_t k, const void* logits, int64_t logits_rs,
                         const float* bias, int sigmoid, int normalize, int64_t* experts, float* weights, int threads) {
    JPLLM_REQUIRE(check_route(dtype, n, e, k, logits, bias, experts, weights));
    if (n == 0 || k == 0) return JPLLM_OK;
    const RouteArgs a{n,       e,       k,       {logits, logits_rs}, bias, sigmoid != 0, normalize != 0,
                      experts, weights, nullptr, {nullptr, 0}};
    return done(table()->route[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_route_backward(jpllm_dtype dtype, int64_t n, int64_t e, int64_t k, const void* logits,
                                  int64_t logits_rs, int sigmoid, int normalize, const int64_t* experts,
                                  const float* weights, const float* dweights, void* dlogits, int64_t dlogits_rs,
                                  int threads) {
    JPLLM_REQUIRE(check_route(dtype, n, e, k, logits, nullptr, experts, weights)
                      .that(k > 0 || n == 0)
                      .array(dweights, n > 0)
                      .array(dlogits, n > 0, element_size(dtype))
                      .rows_apart(n, dlogits_rs, e));
    for (int64_t i = 0; i < n * k; ++i) {
        if (experts[i] < 0 || experts[i] >= e) return JPLLM_ERR_INDEX;
    }
    if (n == 0) return JPLLM_OK;
    const RouteArgs a{n,
                      e,
                      k,
                      {logits, logits_rs},
                      nullptr,
                      sigmoid != 0,
                      normalize != 0,
                      const_cast<int64_t*>(experts),
                      const_cast<float*>(weights),
                      dweights,
                      {dlogits, dlogits_rs}};
    return done(table()->route[storage_type(dtype)](a, team_size(threads)));
}

// By one thread: some 3 ns a row, of which each costs the experts thousands.
jpllm_status jpllm_sort_by_expert(int64_t n, int64_t k, int64_t e, const int64_t* experts, int64_t* token,
                                  int64_t* position, int64_t* sizes) {
    const int64_t m = n * k;
    JPLLM_REQUIRE(Check()
                      .that(n >= 0 && k >= 0 && e >= 0)
                      .array(experts, m > 0, 8)
                      .array(token, m > 0, 8)
                      .array(position, m > 0, 8)
                      .array(sizes, e > 0, 8));
    for (int64_t i = 0; i < m; ++i) {
        if (experts[i] < 0 || experts[i] >= e) return JPLLM_ERR_INDEX;
    }
    if (e == 0) return JPLLM_OK;
    // While rows are placed, sizes[x] is where the next row of expert x goes; then the differences are taken again.
    memset(sizes, 0, static_cast<size_t>(e) * sizeof *sizes);
    for (int64_t i = 0; i < m; ++i) ++sizes[experts[i]];
    int64_t before = 0;
    for (int64_t x = 0; x < e; ++x) {
        const int64_t size = sizes[x];
        sizes[x] = before;
        before += size;
    }
    for (int64_t i = 0; i < m; ++i) {
        const int64_t at = sizes[experts[i]]++;
        token[at] = i / k, position[i] = at;
    }
    for (int64_t x = e - 1; x > 0; --x) sizes[x] -= sizes[x - 1];
    return JPLLM_OK;
}

jpllm_status jpllm_combine(jpllm_dtype dtype, int64_t n, int64_t k, int64_t d, const int64_t* position,
                           const float* weights, const void* x, int64_t x_rs, void* y, int64_t y_rs, int threads) {
    JPLLM_REQUIRE(check_combine(dtype, n, k, d, position, weights, x, y).rows_apart(n, y_rs, d));
    if (n == 0 || d == 0) return JPLLM_OK;
    CombineArgs a{n, k, d, position, weights, {x, x_rs}, {nullptr, 0}, nullptr, {y, y_rs}, false};
    const Shape in{n * k, d, element_size(dtype)}, out{n, d, element_size(dtype)};
    a.past_caches = past_caches(out.bytes(), {out.of(a.y)}, {in.of(a.x)});
    return done(table()->combine[storage_type(dtype)](a, team_size(threads)));
}

jpllm_status jpllm_combine_backward(jpllm_dtype dtype, int64_t n, int64_t k, int64_t d, const int64_t* position,
                                    const float* weights, const void* x, int64_t x_rs, const void* dy, int64_t dy_rs,
                                    void* dx, int64_t dx_rs, float* dweights, int threads) {
    const bool any = n > 0 && k > 0;
    JPLLM_REQUIRE(check_combine(dtype, n, k, d, position, weights, x, dx)
                      .array(weights, any)
                      .array(dweights, any)
                      .array(dy, any && d > 0, element_size(dtype))
                      .rows_apart(n * k, dx_rs, d));
    if (!any) return JPLLM_OK;
    const float nothing = 0;
    CombineArgs a{n, k, d, position, weights, {x, x_rs}, {d == 0 ? &nothing : dy, dy_rs}, dweights, {dx, dx_rs}, false};
    const Shape in{n, d, element_size(dtype)}, out{n * k, d, element_size(dtype)};
    a.past_caches = past_caches(out.bytes(), {out.of(a.y)}, {in.of(a.dy), out.of(a.x)});
    return done(table()->combine[storage_type(dtype)](a, team_size(threads)));
}

}  // extern "C"
