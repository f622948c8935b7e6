// MinHash signatures: the grams of a text, and which loop goes over them.
#include "text/minhash.h"

#include <cstring>

#include "text/rolling.h"
#include "text/units/lower.h"

#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_SVE
#define HWCAP_SVE (1 << 22)
#endif
#endif

namespace jpllm::text {

#define JPLLM_TEXT_DECLARE(name)                                                                          \
    void name(const std::uint32_t*, std::size_t, const std::uint32_t*, const std::uint32_t*, std::size_t, \
              std::uint32_t*);
#if defined(JPLLM_TEXT_AVX512)
JPLLM_TEXT_DECLARE(lower_avx512)
#endif
#if defined(JPLLM_TEXT_AVX2)
JPLLM_TEXT_DECLARE(lower_avx2)
#endif
#if defined(JPLLM_TEXT_SVE)
JPLLM_TEXT_DECLARE(lower_sve)
#endif

namespace {

struct Unit {
    const char* name;
    Lower lower;
};

struct Units {
    Unit units[4];
    const char* names[5];
    std::size_t count = 0;

    Units() : units(), names() {
#if defined(JPLLM_TEXT_AVX512)
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) add("avx512", lower_avx512);
#endif
#if defined(JPLLM_TEXT_AVX2)
        if (__builtin_cpu_supports("avx2")) add("avx2", lower_avx2);
#endif
#if defined(JPLLM_TEXT_SVE)
        if ((getauxval(AT_HWCAP) & HWCAP_SVE) != 0) add("sve", lower_sve);
#endif
        add("scalar", lower_loop);
    }
    void add(const char* name, Lower lower) {
        units[count] = {name, lower};
        names[count++] = name;
    }
};

const Units& units() {
    static const Units here;
    return here;
}

}  // namespace

Lower lower_for(const char* isa) {
    if (isa[0] == '\0') return units().units[0].lower;
    for (std::size_t i = 0; i < units().count; ++i) {
        if (std::strcmp(units().units[i].name, isa) == 0) return units().units[i].lower;
    }
    return nullptr;
}

const char* const* lower_isas() { return units().names; }

void gram_hashes(Codes text, std::size_t n, std::vector<std::uint64_t>& out) {
    each_gram(text, n, [&out](std::uint64_t hash) { out.push_back(hash); });
}

void minhash(Codes text, std::size_t n, const std::uint32_t* a, const std::uint32_t* b, std::size_t functions,
             Lower lower, std::vector<std::uint32_t>& x, std::uint32_t* low) {
    std::memset(low, 0xff, functions * sizeof *low);
    const std::size_t grams = text.size >= n ? text.size - n + 1 : (text.size > 0 ? 1 : 0);
    if (grams == 0) return;
    const std::size_t padded = (grams + JPLLM_TEXT_GRAMS - 1) / JPLLM_TEXT_GRAMS * JPLLM_TEXT_GRAMS;
    if (x.size() < padded) x.resize(padded);
    std::uint32_t* to = x.data();
    each_gram(text, n, [&to](std::uint64_t hash) { *to++ = static_cast<std::uint32_t>(hash >> 32); });
    for (std::size_t i = grams; i < padded; ++i) x[i] = x[grams - 1];  // the least is the same
    lower(x.data(), padded, a, b, functions, low);
}

}  // namespace jpllm::text
