// Which instruction set runs: what the build holds, what the CPU has, what $JPLLM_ISA asks for.
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

#include <atomic>
#include <mutex>
#include <string>

#include "isas.h"
#include "jpllm_kernels.h"
#include "runtime.h"

namespace {

#if defined(JPLLM_SIMDE)
// The AVX-512 units are built over SIMDe for AVX2: for tests of their results on a CPU without AVX-512.
bool runs_avx512() { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }
bool runs_avx512bf16() { return runs_avx512(); }
#elif defined(JPLLM_HAVE_AVX512)
bool runs_avx512() {
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
           __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
}
#if defined(JPLLM_HAVE_AVX512BF16)
bool runs_avx512bf16() { return runs_avx512() && __builtin_cpu_supports("avx512bf16") != 0; }
#endif
#endif
#if defined(JPLLM_HAVE_AVX2)
// F16C came to every CPU before AVX2 did, and GCC 10 knows no name for it here.
bool runs_avx2() { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }
#endif
#if defined(JPLLM_HAVE_SVE512) || defined(JPLLM_HAVE_SVE256)
// The CPU may have longer vectors than the process was given: what counts is the length in force.
bool runs_sve(int bits) {
    if ((getauxval(AT_HWCAP) & HWCAP_SVE) == 0) return false;
    const int length = prctl(PR_SVE_GET_VL);
    return length >= 0 && (length & 0xffff) * 8 == bits;
}
#endif
#if defined(JPLLM_HAVE_SVE512)
bool runs_sve512() { return runs_sve(512); }
#endif
#if defined(JPLLM_HAVE_SVE256)
bool runs_sve256() { return runs_sve(256); }
#endif
bool runs_scalar() { return true; }

struct Isa {
    const char* name;
    bool (*runs_here)();
};

#define JPLLM_ISA_ENTRY(unused, name) {#name, runs_##name},
const Isa kIsas[] = {JPLLM_FOR_ISAS(JPLLM_ISA_ENTRY, )};
constexpr int kNone = -1, kUnknown = -2;

std::atomic<int> chosen{kUnknown};

int find(const char* name) {
    int index = 0;
    for (const Isa& isa : kIsas) {
        if (strcmp(isa.name, name) == 0 && isa.runs_here()) return index;
        ++index;
    }
    return kNone;
}

int choose() {
    const char* asked = getenv("JPLLM_ISA");
    if (asked != nullptr && asked[0] != '\0') return find(asked);
    int index = 0;
    while (!kIsas[index].runs_here()) ++index;  // the last runs everywhere
    return index;
}

const char* names(bool only_here) {
    static std::string text[2];
    static std::once_flag once[2];
    std::call_once(once[only_here], [only_here] {
        for (const Isa& isa : kIsas) {
            if (only_here && !isa.runs_here()) continue;
            text[only_here] += (text[only_here].empty() ? "" : ",") + std::string(isa.name);
        }
    });
    return text[only_here].c_str();
}

}  // namespace

namespace jpllm {

int chosen_isa() {
    int isa = chosen.load(std::memory_order_acquire);
    if (isa == kUnknown) {
        isa = choose();
        chosen.store(isa, std::memory_order_release);
    }
    return isa;
}

}  // namespace jpllm

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
        case JPLLM_ERR_PACKED:
            return "the packed operand is of another product, type or instruction set";
        case JPLLM_ERR_INDEX:
            return "an index is out of range";
    }
    return "unknown status";
}

const char* jpllm_isas(void) { return names(true); }
const char* jpllm_isas_built(void) { return names(false); }
const char* jpllm_isa(void) { return jpllm::chosen_isa() < 0 ? nullptr : kIsas[jpllm::chosen_isa()].name; }

jpllm_status jpllm_set_isa(const char* name) {
    const int isa = name == nullptr || name[0] == '\0' ? choose() : find(name);
    if (isa < 0) return JPLLM_ERR_ISA;
    chosen.store(isa, std::memory_order_release);
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

}  // extern "C"
