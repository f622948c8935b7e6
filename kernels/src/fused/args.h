// Checked arguments of the fused operations, and the table that an instruction set has of them.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace jpllm {

struct NormArgs {
    int64_t m, d;
    const float* x;
    int64_t x_rs;
    const float* weight;
    double eps;
    float* y;
    int64_t y_rs;
    float* rstd;
};

struct NormBackwardArgs {
    int64_t m, d;
    const float* dy;
    int64_t dy_rs;
    const float* x;
    int64_t x_rs;
    const float* weight;
    const float* rstd;
    float* dx;
    int64_t dx_rs;
    float* dweight;
};

struct SwigluArgs {
    int64_t m, n;
    const float *dy, *gate, *up;  // dy null: forward into y; else backward into dgate and dup
    int64_t dy_rs, gate_rs, up_rs;
    float *y, *dgate, *dup;
    int64_t y_rs, dgate_rs, dup_rs;
};

struct AdamwArgs {
    int64_t n;
    float* param;
    const float* grad;
    float *exp_avg, *exp_avg_sq;
    uint16_t* model;
    double lr, beta1, beta2, eps, weight_decay;
    int64_t step;
    double grad_scale;
};

// The int functions return 0, or 1 where there is no memory for the work space.
struct FusedTable {
    int (*rms_norm)(const NormArgs&, int threads);
    int (*rms_norm_backward)(const NormBackwardArgs&, int threads);
    int (*swiglu)(const SwigluArgs&, int threads);
    int (*adamw_step)(const AdamwArgs&, int threads);
};

}  // namespace jpllm
