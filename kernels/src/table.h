// What an instruction set's unit gives to the dispatcher: a table of functions over checked FP32 arguments.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace jpllm {

struct GemmArgs {
    int64_t m, n, k;
    const float* a;
    int64_t a_rs, a_cs;
    const float* b;
    int64_t b_rs, b_cs;
    float* c;
    int64_t c_rs, c_cs;
    const float* bias;  // bias[i * bias_rs + j * bias_cs], or null
    int64_t bias_rs, bias_cs;
    bool accumulate;
};

struct ColumnSumArgs {
    int64_t m, n;
    const float* x;
    int64_t x_rs;
    float* out;
};

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
struct KernelTable {
    const char* name;
    int lanes;
    int (*gemm)(const GemmArgs&, int threads);
    int (*column_sum)(const ColumnSumArgs&, int threads);
    int (*rms_norm)(const NormArgs&, int threads);
    int (*rms_norm_backward)(const NormBackwardArgs&, int threads);
    int (*swiglu)(const SwigluArgs&, int threads);
    int (*linear_logsumexp)(const LogsumexpArgs&, int threads);
    int (*linear_logsumexp_backward)(const LogsumexpArgs&, int threads);
    int (*adamw_step)(const AdamwArgs&, int threads);
    // `rounds` of independent multiply-adds in registers; returns their flop, and a value to keep the compiler honest.
    double (*fma_rounds)(int64_t rounds, float* sink);
};

extern const KernelTable kTable_scalar;
extern const KernelTable kTable_avx2;
extern const KernelTable kTable_avx512;
extern const KernelTable kTable_sve512;

}  // namespace jpllm
