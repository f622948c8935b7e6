// The instruction sets of this build, best first, and the tables that each family of kernels has for them.
//
// A family (gemm, attention, ...) has a struct of function pointers, `GemmTable`, say. Its unit.cpp is compiled once an
// instruction set and defines kGemmTable_<set> with JPLLM_DEFINE_TABLE; its api.cpp, compiled once, says
// JPLLM_LOOK_UP(GemmTable) and then has `table()`, that of the set in use.
#pragma once

#if defined(JPLLM_HAVE_AVX512BF16)
#define JPLLM_LIST_AVX512BF16(X, A) X(A, avx512bf16)
#else
#define JPLLM_LIST_AVX512BF16(X, A)
#endif
#if defined(JPLLM_HAVE_AVX512)
#define JPLLM_LIST_AVX512(X, A) X(A, avx512)
#else
#define JPLLM_LIST_AVX512(X, A)
#endif
#if defined(JPLLM_HAVE_AVX2)
#define JPLLM_LIST_AVX2(X, A) X(A, avx2)
#else
#define JPLLM_LIST_AVX2(X, A)
#endif
#if defined(JPLLM_HAVE_SVE512)
#define JPLLM_LIST_SVE512(X, A) X(A, sve512)
#else
#define JPLLM_LIST_SVE512(X, A)
#endif
#if defined(JPLLM_HAVE_SVE256)
#define JPLLM_LIST_SVE256(X, A) X(A, sve256)
#else
#define JPLLM_LIST_SVE256(X, A)
#endif

// X(A, name) for each.
#define JPLLM_FOR_ISAS(X, A)    \
    JPLLM_LIST_AVX512BF16(X, A) \
    JPLLM_LIST_AVX512(X, A)     \
    JPLLM_LIST_AVX2(X, A)       \
    JPLLM_LIST_SVE512(X, A)     \
    JPLLM_LIST_SVE256(X, A)     \
    X(A, scalar)

namespace jpllm {

// Index of the instruction set in use, in the order above; -1 where $JPLLM_ISA names one that cannot be had.
int chosen_isa();

}  // namespace jpllm

#define JPLLM_EXTERN_TABLE(Table, name) extern const Table k##Table##_##name;
#define JPLLM_TABLE_ADDRESS(Table, name) &k##Table##_##name,
#define JPLLM_LOOK_UP(Table)                                                                   \
    namespace jpllm {                                                                          \
    JPLLM_FOR_ISAS(JPLLM_EXTERN_TABLE, Table)                                                  \
    namespace {                                                                                \
    const Table* const kTables[] = {JPLLM_FOR_ISAS(JPLLM_TABLE_ADDRESS, Table)};               \
    inline const Table* table() { return chosen_isa() < 0 ? nullptr : kTables[chosen_isa()]; } \
    }                                                                                          \
    }

#define JPLLM_TEXT2(a) #a
#define JPLLM_TEXT(a) JPLLM_TEXT2(a)
#define JPLLM_JOIN2(a, b) a##_##b
#define JPLLM_JOIN(a, b) JPLLM_JOIN2(a, b)
// In a unit: the table of any family for the unit's own set, and the beginning of its definition.
#define JPLLM_TABLE_OF_UNIT(Table) JPLLM_JOIN(k##Table, JPLLM_ISA_NAME)
#define JPLLM_DEFINE_TABLE(Table) extern const Table JPLLM_TABLE_OF_UNIT(Table)
