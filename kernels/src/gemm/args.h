// Checked arguments of the matrix products, and the table that an instruction set has of them.
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

// The int functions return 0, or 1 where there is no memory for the work space.
struct GemmTable {
    int (*gemm)(const GemmArgs&, int threads);
    int (*column_sum)(const ColumnSumArgs&, int threads);
};

}  // namespace jpllm
