// Checked arguments of the loss, and the table that an instruction set has of it.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace jpllm {

struct LogsumexpArgs {
    int64_t n, v, d;
    const float* hidden;
    int64_t hidden_rs, hidden_cs;
    const float* weight;
    int64_t weight_rs, weight_cs;
    const int64_t* targets;
    float *lse_out, *target_out;        // forward
    const float *lse, *dlse, *dtarget;  // backward
    float *dhidden, *dweight;           // contiguous, or null
};

// The int functions return 0, or 1 where there is no memory for the work space.
struct LossTable {
    int (*linear_logsumexp)(const LogsumexpArgs&, int threads);
    int (*linear_logsumexp_backward)(const LogsumexpArgs&, int threads);
};

}  // namespace jpllm
