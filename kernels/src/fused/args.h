// Checked arguments of the fused operations, and the table that an instruction set has of them.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "../core/dtypes.h"
#include "../core/matrix.h"

namespace jpllm {

// `past_caches`: the outputs are too large for the caches, and apart from the inputs (core/stream.h).

struct NormArgs {
    int64_t m, d;
    In x, update;  // update null: the norm of x; else of sum = x + update
    const void *weight, *bias;
    double eps;
    Out sum, y;
    float *mean, *rstd;
    bool past_caches;
};

struct NormBackwardArgs {
    int64_t m, d;
    In dy, x, dsum;  // dsum null: nothing is added to dx
    const void* weight;
    const float *mean, *rstd;
    Out dx;
    void *dweight, *dbias;
    bool past_caches;
};

struct SwigluArgs {
    int64_t m, n;
    In dy, gate, up;  // dy null: forward into y; else backward into dgate and dup
    Out y, dgate, dup;
    bool past_caches;
};

struct SoftmaxArgs {
    int64_t m, n;
    In x, dy;  // dy null: the softmax of x into y; else x is the softmax and y its input's gradient
    Out y;
    bool past_caches;
};

struct CastArgs {
    int64_t m, n;
    In x;
    Out y;
    float scale;
    int* finite;  // becomes 0 where a result is not finite
    bool past_caches;
};

// Strides of batch, token and head, in elements.
struct RotaryHeads {
    int64_t heads;
    const void* x;
    int64_t x_stride[3];
    void* y;
    int64_t y_stride[3];
    bool past_caches;
};

struct RotaryArgs {
    int64_t batch, tokens, half;
    RotaryHeads q, k;
    const float* table;  // a row: the cosines, then the sines of half the channels
    int64_t table_stride[2];
    float direction;
};

struct EmbeddingArgs {
    int64_t n, v, d;
    const int64_t* ids;
    In x;   // forward: the table [V, D]; backward: the gradient of the rows [N, D]
    Out y;  // forward: the rows [N, D]; backward: the gradient of the table [V, D]
    bool past_caches;
};

struct AdamwArgs {
    int64_t n;
    float* param;
    const void* grad;
    float *exp_avg, *exp_avg_sq;
    void* model;  // may be null
    double lr, beta1, beta2, eps, weight_decay;
    int64_t step;
    double grad_scale;
};

struct SquaresArgs {
    int64_t n;
    const void* x;
    double* sum;
};

// The int functions return 0, 1 where there is no memory for the work space, or kBadIndex.
struct FusedTable {
    int (*rms_norm[kStorageTypes])(const NormArgs&, int threads);
    int (*rms_norm_backward[kStorageTypes])(const NormBackwardArgs&, int threads);
    int (*layer_norm[kStorageTypes])(const NormArgs&, int threads);
    int (*layer_norm_backward[kStorageTypes])(const NormBackwardArgs&, int threads);
    int (*swiglu[kStorageTypes])(const SwigluArgs&, int threads);
    int (*rotary[kStorageTypes])(const RotaryArgs&, int threads);
    int (*softmax[kStorageTypes])(const SoftmaxArgs&, int threads);
    int (*cast[kStorageTypes][kStorageTypes])(const CastArgs&, int threads);  // [from][to]
    int (*embedding[kStorageTypes])(const EmbeddingArgs&, int threads);
    int (*embedding_backward[kStorageTypes])(const EmbeddingArgs&, int threads);
    int (*adamw_step[kStorageTypes][kStorageTypes])(const AdamwArgs&, int threads);  // [gradient][model]
    int (*sum_of_squares[kStorageTypes])(const SquaresArgs&, int threads);
};

}  // namespace jpllm
