// What the C functions share: collecting the first fault of a call's arguments.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "dtypes.h"
#include "isas.h"
#include "jpllm_kernels.h"
#include "matrix.h"
#include "team.h"

namespace jpllm {

// Index of a storage type in a table, -1 for one without kernels (FP64).
inline int storage_type(jpllm_dtype dtype) {
    return dtype == JPLLM_FP32 ? kFp32 : dtype == JPLLM_BF16 ? kBf16 : dtype == JPLLM_FP16 ? kFp16 : -1;
}
inline size_t element_size(jpllm_dtype dtype) { return dtype == JPLLM_FP64 ? 8 : dtype == JPLLM_FP32 ? 4 : 2; }

struct Check {
    jpllm_status status = JPLLM_OK;

    Check& that(bool ok, jpllm_status otherwise = JPLLM_ERR_ARGUMENT) {
        if (status == JPLLM_OK && !ok) status = otherwise;
        return *this;
    }
    Check& fp32(jpllm_dtype dtype) { return that(dtype == JPLLM_FP32, JPLLM_ERR_DTYPE); }
    // FP32, BF16 or FP16.
    Check& storage(jpllm_dtype dtype) { return that(storage_type(dtype) >= 0, JPLLM_ERR_DTYPE); }
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

int default_threads();
inline int team_size(int threads) { return threads > 0 ? threads : default_threads(); }
inline jpllm_status done(int result) {
    return result == 0 ? JPLLM_OK : result == kBadIndex ? JPLLM_ERR_INDEX : JPLLM_ERR_MEMORY;
}

}  // namespace jpllm

// Returns the first fault, or that there is no instruction set to run on.
#define JPLLM_REQUIRE(check)                                   \
    do {                                                       \
        const ::jpllm::Check result_ = (check);                \
        if (result_.status != JPLLM_OK) return result_.status; \
        if (::jpllm::chosen_isa() < 0) return JPLLM_ERR_ISA;   \
    } while (0)
