// The probes: the C functions.
#include <time.h>

#include <mutex>

#include "../core/check.h"
#include "args.h"

JPLLM_LOOK_UP(ProbeTable)

using namespace jpllm;

extern "C" {

jpllm_status jpllm_fma_peak(double seconds, int threads, double* flops) {
    JPLLM_REQUIRE(Check().that(seconds > 0 && seconds <= 60 && flops != nullptr));
    struct Probe {
        const ProbeTable* kernels;
        double seconds;
        std::mutex lock;
        double total = 0;
    } probe{table(), seconds, {}, 0};
    jpllm::run_team(
        team_size(threads),
        [](const jpllm::Team&, void* context) {
            Probe& p = *static_cast<Probe*>(context);
            const auto now = [] {
                timespec t;
                clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
                return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
            };
            float sink = 1.0f;
            double best = 0;
            const double end = now() + p.seconds;
            // The best of several runs of some milliseconds: what the core does when nothing disturbs it.
            for (double start = now(); start < end;) {
                const double flop = p.kernels->fma_rounds(400000, &sink), stop = now();
                if (stop > start && flop / (stop - start) > best) best = flop / (stop - start);
                sink = 1.0f;
                start = stop;
            }
            const std::lock_guard<std::mutex> hold(p.lock);
            p.total += best;
        },
        &probe);
    *flops = probe.total;
    return JPLLM_OK;
}

}  // extern "C"
