// Checked arguments of the loss, and the table that an instruction set has of it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "../core/dtypes.h"
#include "../gemm/args.h"

namespace jpllm {

// hidden[N,D] and weight[V,D] of one storage type, and the target of each token. A target outside [0, V) is none.
struct HeadArgs {
    int64_t n, v, d;
    StorageType type;
    const void* hidden;
    int64_t hidden_rs, hidden_cs;
    const void* weight;
    int64_t weight_rs, weight_cs;
    const int64_t* targets;
    Math math = kExact;  // of all products; kFp16Chunk for FP16
    int chunk = 32;
};

struct LogsumexpArgs {
    HeadArgs head;
    float *lse, *target_logit;
};

struct LogsumexpBackwardArgs {
    HeadArgs head;
    const float *lse, *dlse, *dtarget;
    void* dhidden;   // [N,D] of the storage type, contiguous, or null
    float* dweight;  // [V,D], contiguous, or null
};

struct CrossEntropyArgs {
    HeadArgs head;
    double z_loss;
    double sums[2];  // results: the loss and the z-loss
    void* dhidden;   // as above
    float* dweight;
};

// The int functions return 0, or 1 where there is no memory for the work space.
struct LossTable {
    int (*linear_logsumexp)(const LogsumexpArgs&, int threads);
    int (*linear_logsumexp_backward)(const LogsumexpBackwardArgs&, int threads);
    int (*linear_cross_entropy)(CrossEntropyArgs&, int threads);
};

}  // namespace jpllm
