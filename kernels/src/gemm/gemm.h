// Matrix products: the choice of a way, the work space, the team.
//
// Few rows go without packing (few_rows.h), all else through the blocked driver (blocked.h) with an engine.
#pragma once
#include "few_rows.h"
#include "int16.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// Calls f(GemmArgs, as few rows) for a product with few rows or, turned, few columns; else returns false.
template <class F>
inline bool with_few_rows(const GemmArgs& g, F f) {
    if (g.math == kInt16) return false;
    if (!there(g.up) && g.m > g.n) {
        const GemmArgs turned = transposed(g);
        if (few_rows_pay(turned)) return f(turned), true;
    }
    if (few_rows_pay(g)) return f(g), true;
    return false;
}

// Calls f(engine) for the engine of a product that is not of few rows.
template <class F>
inline void with_engine(const GemmArgs& g, F f) {
    if (g.math == kFp16Chunk) return f(Fp16Chunk{});
    if (g.math == kInt16) return f(Int16{});
#if defined(JPLLM_BF16_DOT)
    if (by_pairs(g)) return f(Bf16{});
#endif
    f(Fp32{});
}

// Floats of work space for a product; for any FP32 or stored product up to these sizes without a gate.
inline int64_t gemm_floats(const GemmArgs& g) {
    int64_t floats = 0;
    if (with_few_rows(g, [&](const GemmArgs& few) { floats = few_rows_floats(few); })) return floats;
    with_engine(g, [&](auto engine) { floats = plan_product<decltype(engine)>(g).floats(); });
    return floats;
}
inline int64_t gemm_floats(int64_t m, int64_t n, int64_t k) {
    const int64_t wide = round_up(m > n ? m : n, 64), half = Tuning::panel_m / 2;
    // Not k_block(k): a smaller K may have longer blocks, and blocks are of whole chunks of up to 128 steps.
    const int64_t line = least(round_up(k, 128) + V::N, round_up(Tuning::block_k, V::N));
    return 2 * round_up(least(wide, Tuning::panel_m) * line, 64) + least(wide, half) * least(wide, half) +
           round_up(4 * kGroupRows * k, 64);
}

// Called by every thread of a team with the same arguments; ends with a barrier.
inline void gemm_team(const Team& team, const GemmArgs& g, float* memory) {
    if (g.m == 0 || g.n == 0) return;
    if (with_few_rows(g, [&](const GemmArgs& few) { few_rows_team(team, few, memory); })) return team.barrier();
    with_engine(g, [&](auto engine) {
        using Engine = decltype(engine);
        blocked_team<Engine>(team, plan_product<Engine>(g), memory);
    });
}

inline double gemm_nanoseconds(const GemmArgs& g) {
    return 2.0 * static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k) *
           (there(g.up) ? 2.0 : 1.0) * 0.02;
}

inline int gemm(const GemmArgs& args, int threads) {
    if (args.m == 0 || args.n == 0) return 0;
    struct Call {
        const GemmArgs* args;
        float* memory;
    } call{&args, static_cast<float*>(workspace(static_cast<size_t>(gemm_floats(args) + 1) * sizeof(float)))};
    if (call.memory == nullptr) return 1;
    run_team(
        worthwhile(threads, gemm_nanoseconds(args)),
        [](const Team& team, void* context) {
            const Call& c = *static_cast<Call*>(context);
            gemm_team(team, *c.args, c.memory);
        },
        &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
