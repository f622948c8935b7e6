// Many products at once: experts' ragged groups, batches of small ones.
//
// A product that is large against a thread's share of all is computed by the whole team, one after the other; the rest
// is handed out whole to whichever thread is free. A product's bits do not depend on who computes it.
#pragma once
#include "gemm.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

struct BatchCall {
    GemmBatchArgs args;
    double shared_from;  // nanoseconds
    float* memory;
    int64_t floats_alone;  // of work space for any product that one thread computes
    int64_t next;
};

inline void batch_team(const Team& team, BatchCall& c) {
    const auto shared = [&](int64_t i) { return gemm_nanoseconds(c.args.products[i]) >= c.shared_from; };
    for (int64_t i = 0; i < c.args.count; ++i) {
        if (shared(i)) gemm_team(team, c.args.products[i], c.memory);
    }
    // The caller's work space is free again: a shared product ends with a barrier.
    float* memory = c.memory;
    if (team.id != 0) memory = static_cast<float*>(workspace(static_cast<size_t>(c.floats_alone + 1) * sizeof(float)));
    if (memory == nullptr) return;  // the others do the work
    Barrier nobody;
    const Team alone{0, 1, &nobody};
    for (;;) {
        const int64_t i = __atomic_fetch_add(&c.next, 1, __ATOMIC_RELAXED);
        if (i >= c.args.count) return;
        if (!shared(i)) gemm_team(alone, c.args.products[i], memory);
    }
}

inline int gemm_batch(const GemmBatchArgs& args, int threads) {
    double all = 0;
    for (int64_t i = 0; i < args.count; ++i) all += gemm_nanoseconds(args.products[i]);
    // Whole products of a fourth of a thread's share leave a thread idle for a fourth of the time at most. Under 50
    // microseconds the barriers of a team cost more than they bring.
    const double fourth = all / (4 * threads);
    BatchCall call{args, fourth > 50e3 ? fourth : 50e3, nullptr, 0, 0};
    int64_t floats = 0;
    for (int64_t i = 0; i < args.count; ++i) {
        const int64_t needed = gemm_floats(args.products[i]);
        if (needed > floats) floats = needed;
        if (gemm_nanoseconds(args.products[i]) < call.shared_from && needed > call.floats_alone) {
            call.floats_alone = needed;
        }
    }
    call.memory = static_cast<float*>(workspace(static_cast<size_t>(floats + 1) * sizeof(float)));
    if (call.memory == nullptr) return 1;
    run_team(
        worthwhile(threads, all),
        [](const Team& team, void* context) { batch_team(team, *static_cast<BatchCall*>(context)); }, &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
