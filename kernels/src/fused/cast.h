// One storage type to another, times a scale, and whether every result is finite: what gradients scaled against
// underflow need (Micikevicius et al., arXiv:1710.03740). Letters: M rows, N columns.
#pragma once
#include "../core/stream.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// The least magnitude that rounds to infinity: halfway from the largest number of T to the next power of two.
inline float overflow_at(float) { return __builtin_inff(); }
inline float overflow_at(bf16) { return 3.39617752923046e38f; }
inline float overflow_at(fp16) { return 65520.0f; }

template <class From, class To>
inline bool cast_row(const CastArgs& a, int64_t i) {
    const From* x = row<From>(a.x, i);
    const V scale = V::set(a.scale), zero = V::zero();
    // 0 * r is 0 or NaN: the sum stays 0 as long as all are finite.
    V faults = zero, largest = zero;
    const auto judge = [&](V r) {
        faults = fma(r, zero, faults);
        if (sizeof(To) == 2) largest = max(max(r, zero - r), largest);
    };
    To* const y[1] = {row<To>(a.y, i)};
    write_rows_in_order(y, a.n, a.past_caches, [&](auto at, auto(&r)[1]) {
        r[0] = at.load(x) * scale;
        for_each(r[0], judge);
    });
    return sum(faults) == 0.0f && !(max_lane(largest) >= overflow_at(To{}));
}

template <class From, class To>
inline int cast(const CastArgs& args, int threads) {
    CastArgs call = args;
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.n) * 0.2),
        [](const Team& team, void* context) {
            const CastArgs& a = *static_cast<CastArgs*>(context);
            int64_t start, stop;
            team.split(a.m, 1, &start, &stop);
            bool finite = true;
            for (int64_t i = start; i < stop; ++i) finite = cast_row<From, To>(a, i) && finite;
            if (a.past_caches) stream_end();
            if (!finite) __atomic_store_n(a.finite, 0, __ATOMIC_RELAXED);
        },
        &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
