// The C interface: checks arguments, chooses the instruction set, calls its table.
#include <stdlib.h>
#include <string.h>

#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#include <sys/prctl.h>
#ifndef HWCAP_SVE
#define HWCAP_SVE (1 << 22)
#endif
#ifndef PR_SVE_GET_VL
#define PR_SVE_GET_VL 51
#endif
#endif
#include <time.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "jpllm_kernels.h"
#include "runtime.h"
#include "table.h"
#include "team.h"

namespace {

using jpllm::KernelTable;

struct Isa {
    const KernelTable* table;
    bool (*runs_here)();
};

// Best first.
const Isa kIsas[] = {
#if defined(JPLLM_HAVE_AVX512)
    {&jpllm::kTable_avx512,
     [] {
         return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
     }},
#endif
#if defined(JPLLM_HAVE_AVX2)
    {&jpllm::kTable_avx2, [] { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }},
#endif
#if defined(JPLLM_HAVE_SVE512)
    {&jpllm::kTable_sve512,
     [] {
         // The CPU may have longer vectors than the process was given: what counts is the length in force.
         if ((getauxval(AT_HWCAP) & HWCAP_SVE) == 0) return false;
         const int length = prctl(PR_SVE_GET_VL);
         return length >= 0 && (length & 0xffff) == 64;
     }},
#endif
    {&jpllm::kTable_scalar, [] { return true; }},
};

std::atomic<const KernelTable*> chosen{nullptr};

const KernelTable* find(const char* name) {
    for (const Isa& isa : kIsas) {
        if (strcmp(isa.table->name, name) == 0 && isa.runs_here()) return isa.table;
    }
    return nullptr;
}

const KernelTable* choose() {
    const char* asked = getenv("JPLLM_ISA");
    if (asked != nullptr && asked[0] != '\0') return find(asked);
    for (const Isa& isa : kIsas) {
        if (isa.runs_here()) return isa.table;
    }
    return nullptr;
}

const KernelTable* table() {
    const KernelTable* t = chosen.load(std::memory_order_acquire);
    if (t == nullptr) {
        t = choose();
        chosen.store(t, std::memory_order_release);
    }
    return t;
}

const char* names(bool only_here) {
    static std::string text[2];
    static std::once_flag once[2];
    std::call_once(once[only_here], [only_here] {
        for (const Isa& isa : kIsas) {
            if (only_here && !isa.runs_here()) continue;
            text[only_here] += (text[only_here].empty() ? "" : ",") + std::string(isa.table->name);
        }
    });
    return text[only_here].c_str();
}

int team_size(int threads) { return threads > 0 ? threads : jpllm::default_threads(); }

// Collects the first fault of a call's arguments.
struct Check {
    jpllm_status status = JPLLM_OK;

    Check& that(bool ok, jpllm_status otherwise = JPLLM_ERR_ARGUMENT) {
        if (status == JPLLM_OK && !ok) status = otherwise;
        return *this;
    }
    Check& fp32(jpllm_dtype dtype) { return that(dtype == JPLLM_FP32, JPLLM_ERR_DTYPE); }
    // An array that holds anything must be there and aligned.
    Check& array(const void* p, bool any, size_t alignment = 4) {
        that(!any || p != nullptr);
        return that(reinterpret_cast<uintptr_t>(p) % alignment == 0, JPLLM_ERR_ALIGNMENT);
    }
    // Rows of an output must not overlap.
    Check& rows_apart(int64_t rows, int64_t stride, int64_t width) {
        return that(rows <= 1 || (stride < 0 ? -stride : stride) >= width);
    }
};

jpllm_status done(int result) { return result == 0 ? JPLLM_OK : JPLLM_ERR_MEMORY; }

const float* in(const void* p) { return static_cast<const float*>(p); }
float* out(void* p) { return static_cast<float*>(p); }

}  // namespace

// Returns the first fault, or that there is no instruction set to run on.
#define JPLLM_REQUIRE(check)                                   \
    do {                                                       \
        const Check result_ = (check);                         \
        if (result_.status != JPLLM_OK) return result_.status; \
        if (table() == nullptr) return JPLLM_ERR_ISA;          \
    } while (0)

extern "C" {

const char* jpllm_status_string(jpllm_status status) {
    switch (status) {
        case JPLLM_OK:
            return "ok";
        case JPLLM_ERR_ARGUMENT:
            return "a negative size, a missing array, or an output whose rows overlap";
        case JPLLM_ERR_DTYPE:
            return "no kernel for this dtype";
        case JPLLM_ERR_ALIGNMENT:
            return "an array is not aligned to its element";
        case JPLLM_ERR_MEMORY:
            return "no memory for the work space";
        case JPLLM_ERR_ISA:
            return "unknown instruction set, or one that this CPU lacks";
    }
    return "unknown status";
}

const char* jpllm_isas(void) { return names(true); }
const char* jpllm_isas_built(void) { return names(false); }
const char* jpllm_isa(void) { return table() == nullptr ? nullptr : table()->name; }

jpllm_status jpllm_set_isa(const char* name) {
    const KernelTable* t = name == nullptr || name[0] == '\0' ? choose() : find(name);
    if (t == nullptr) return JPLLM_ERR_ISA;
    chosen.store(t, std::memory_order_release);
    return JPLLM_OK;
}

int jpllm_default_threads(void) { return jpllm::default_threads(); }

const char* jpllm_thread_runtime(void) {
    static thread_local std::string text;
    text = jpllm::thread_runtime();
    return text.c_str();
}

const char* jpllm_openmp_runtimes(void) {
    static thread_local std::string text;
    text = jpllm::openmp_runtimes();
    return text.c_str();
}

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

jpllm_status jpllm_rms_norm(jpllm_dtype dtype, int64_t m, int64_t d, const void* x, int64_t x_rs, const void* weight,
                            double eps, void* y, int64_t y_rs, void* rstd, int threads) {
    const bool any = m > 0 && d > 0;
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(m >= 0 && d >= 0 && eps >= 0)
                      .array(x, any)
                      .array(weight, any)
                      .array(y, any)
                      .array(rstd, any)
                      .rows_apart(m, y_rs, d));
    if (!any) return JPLLM_OK;
    return done(table()->rms_norm({m, d, in(x), x_rs, in(weight), eps, out(y), y_rs, out(rstd)}, team_size(threads)));
}

jpllm_status jpllm_rms_norm_backward(jpllm_dtype dtype, int64_t m, int64_t d, const void* dy, int64_t dy_rs,
                                     const void* x, int64_t x_rs, const void* weight, const void* rstd, void* dx,
                                     int64_t dx_rs, void* dweight, int threads) {
    const bool any = m > 0 && d > 0;
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(m >= 0 && d >= 0)
                      .array(dy, any)
                      .array(x, any)
                      .array(weight, any)
                      .array(rstd, any)
                      .array(dx, any)
                      .array(dweight, d > 0)
                      .rows_apart(m, dx_rs, d));
    return done(table()->rms_norm_backward(
        {m, d, in(dy), dy_rs, in(x), x_rs, in(weight), in(rstd), out(dx), dx_rs, out(dweight)}, team_size(threads)));
}

jpllm_status jpllm_swiglu(jpllm_dtype dtype, int64_t m, int64_t n, const void* gate, int64_t gate_rs, const void* up,
                          int64_t up_rs, void* y, int64_t y_rs, int threads) {
    const bool any = m > 0 && n > 0;
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(m >= 0 && n >= 0)
                      .array(gate, any)
                      .array(up, any)
                      .array(y, any)
                      .rows_apart(m, y_rs, n));
    return done(
        table()->swiglu({m, n, nullptr, in(gate), in(up), 0, gate_rs, up_rs, out(y), nullptr, nullptr, y_rs, 0, 0},
                        team_size(threads)));
}

jpllm_status jpllm_swiglu_backward(jpllm_dtype dtype, int64_t m, int64_t n, const void* dy, int64_t dy_rs,
                                   const void* gate, int64_t gate_rs, const void* up, int64_t up_rs, void* dgate,
                                   int64_t dgate_rs, void* dup, int64_t dup_rs, int threads) {
    const bool any = m > 0 && n > 0;
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(m >= 0 && n >= 0)
                      .array(dy, any)
                      .array(gate, any)
                      .array(up, any)
                      .array(dgate, any)
                      .array(dup, any)
                      .rows_apart(m, dgate_rs, n)
                      .rows_apart(m, dup_rs, n));
    if (!any) return JPLLM_OK;
    return done(table()->swiglu(
        {m, n, in(dy), in(gate), in(up), dy_rs, gate_rs, up_rs, nullptr, out(dgate), out(dup), 0, dgate_rs, dup_rs},
        team_size(threads)));
}

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

jpllm_status jpllm_adamw_step(jpllm_dtype dtype, int64_t n, void* param, const void* grad, void* exp_avg,
                              void* exp_avg_sq, uint16_t* model_bf16, double lr, double beta1, double beta2, double eps,
                              double weight_decay, int64_t step, double grad_scale, int threads) {
    JPLLM_REQUIRE(Check()
                      .fp32(dtype)
                      .that(n >= 0 && step >= 1)
                      .that(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1 && eps >= 0)
                      .array(param, n > 0)
                      .array(grad, n > 0)
                      .array(exp_avg, n > 0)
                      .array(exp_avg_sq, n > 0)
                      .array(model_bf16, false, 2));
    return done(table()->adamw_step({n, out(param), in(grad), out(exp_avg), out(exp_avg_sq), model_bf16, lr, beta1,
                                     beta2, eps, weight_decay, step, grad_scale},
                                    team_size(threads)));
}

jpllm_status jpllm_fma_peak(double seconds, int threads, double* flops) {
    JPLLM_REQUIRE(Check().that(seconds > 0 && seconds <= 60 && flops != nullptr));
    struct Probe {
        const KernelTable* kernels;
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
