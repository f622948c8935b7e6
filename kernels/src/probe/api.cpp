// The probes: the C functions.
#include <stdlib.h>
#include <time.h>

#include <memory>
#include <mutex>
#include <vector>

#include "../core/check.h"
#include "args.h"

JPLLM_LOOK_UP(ProbeTable)

using namespace jpllm;

namespace {

double thread_seconds() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// flop a second of CPU time, summed over a team that runs `rounds` for about `seconds`.
double peak(double (*rounds)(int64_t, float*), double seconds, int threads) {
    struct Probe {
        double (*rounds)(int64_t, float*);
        double seconds;
        std::mutex lock;
        double total = 0;
    } probe{rounds, seconds, {}, 0};
    run_team(
        team_size(threads),
        [](const Team&, void* context) {
            Probe& p = *static_cast<Probe*>(context);
            float sink = 1.0f;
            double best = 0;
            const double end = thread_seconds() + p.seconds;
            // The best of several runs of some milliseconds: what the core does when nothing disturbs it.
            // One at least, however little time was asked for: under emulation reading the clock takes longer.
            double start = thread_seconds();
            do {
                const double flop = p.rounds(400000, &sink), stop = thread_seconds();
                if (stop > start && flop / (stop - start) > best) best = flop / (stop - start);
                sink = 1.0f;
                start = stop;
            } while (start < end);
            const std::lock_guard<std::mutex> hold(p.lock);
            p.total += best;
        },
        &probe);
    return probe.total;
}

constexpr size_t kLine = 256;  // of A64FX; a multiple of everyone else's
constexpr int kPasses = 64;    // at most

struct Free {
    void operator()(void* p) const { free(p); }
};
using Block = std::unique_ptr<float, Free>;

Block floats(int64_t n) {
    void* p = nullptr;
    return Block(posix_memalign(&p, kLine, static_cast<size_t>(n) * sizeof(float)) == 0 ? static_cast<float*>(p)
                                                                                        : nullptr);
}

}  // namespace

extern "C" {

jpllm_status jpllm_fma_peak(double seconds, int threads, double* flops) {
    JPLLM_REQUIRE(Check().that(seconds > 0 && seconds <= 60 && flops != nullptr));
    *flops = peak(table()->fma_rounds, seconds, threads);
    return JPLLM_OK;
}

jpllm_status jpllm_dot_peak(double seconds, int threads, double* flops, int* has_dot) {
    JPLLM_REQUIRE(Check().that(seconds > 0 && seconds <= 60 && flops != nullptr && has_dot != nullptr));
    *has_dot = table()->dot_rounds != nullptr;
    *flops = peak(*has_dot ? table()->dot_rounds : table()->fma_rounds, seconds, threads);
    return JPLLM_OK;
}

int jpllm_stream_has_past_caches(void) { return chosen_isa() >= 0 && table()->has_past_caches; }

jpllm_status jpllm_stream(jpllm_stream_kind kind, int past_caches, int64_t n, double seconds, int threads,
                          double* bytes_a_second) {
    JPLLM_REQUIRE(Check()
                      .that(kind == JPLLM_STREAM_COPY || kind == JPLLM_STREAM_TRIAD)
                      .that(n > 0 && n <= (int64_t{1} << 40) && seconds > 0 && seconds <= 60)
                      .that(bytes_a_second != nullptr));
    const bool triad = kind == JPLLM_STREAM_TRIAD;
    const Block a = floats(n), b = floats(triad ? n : 1), c = floats(n);
    if (a == nullptr || b == nullptr || c == nullptr) return JPLLM_ERR_MEMORY;
    const int size = team_size(threads);
    struct Probe {
        void (*pass)(const StreamArgs&);
        StreamArgs args;
        double bytes, seconds;
        std::vector<double> took;
        double best = 0;
        bool more = true;
    } probe{table()->stream[triad ? kStreamTriad : kStreamCopy],
            {n, a.get(), triad ? b.get() : nullptr, c.get(), past_caches != 0},
            static_cast<double>(n) * sizeof(float) * (triad ? 3 : 2),
            seconds,
            std::vector<double>(static_cast<size_t>(size)),
            0,
            true};
    run_team(
        size,
        [](const Team& team, void* context) {
            Probe& p = *static_cast<Probe*>(context);
            int64_t start, stop;
            team.split(p.args.n, kLine / sizeof(float), &start, &stop);
            // The thread that will use a page touches it first, so that it lies in that thread's memory.
            for (int64_t i = start; i < stop; ++i) {
                const_cast<float*>(p.args.a)[i] = 1.0f;
                if (p.args.b != nullptr) const_cast<float*>(p.args.b)[i] = 2.0f;
                p.args.c[i] = 0.0f;
            }
            const StreamArgs mine{stop - start, p.args.a + start, p.args.b == nullptr ? nullptr : p.args.b + start,
                                  p.args.c + start, p.args.past_caches};
            const double begin = thread_seconds();
            for (int pass = 0; pass < kPasses; ++pass) {
                team.barrier();
                if (!p.more) return;
                const double from = thread_seconds();
                p.pass(mine);
                p.took[static_cast<size_t>(team.id)] = thread_seconds() - from;
                team.barrier();
                if (team.id != 0) continue;
                double slowest = 0;
                for (int i = 0; i < team.size; ++i) {
                    const double t = p.took[static_cast<size_t>(i)];
                    if (t > slowest) slowest = t;
                }
                if (slowest > 0 && p.bytes / slowest > p.best) p.best = p.bytes / slowest;
                p.more = pass == 0 || thread_seconds() - begin < p.seconds;
            }
        },
        &probe);
    *bytes_a_second = probe.best;
    return JPLLM_OK;
}

}  // extern "C"
