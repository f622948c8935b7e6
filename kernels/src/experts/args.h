// Checked arguments of the experts' operations, and the table that an instruction set has of them. Letters: N tokens,
// E experts, k experts of a token, D width.
#pragma once
#include "../core/dtypes.h"
#include "../core/matrix.h"

namespace jpllm {

struct RouteArgs {
    int64_t n, e, k;
    In logits;
    const float* bias;  // may be null
    bool sigmoid, normalize;
    int64_t* experts;       // forward: written
    float* weights;         // forward: written
    const float* dweights;  // null: forward; else backward into dlogits
    Out dlogits;
};

struct CombineArgs {
    int64_t n, k, d;
    const int64_t* position;
    const float* weights;  // null: all are 1
    In x, dy;              // dy null: y is the sums of x's rows; else y is the gradient of x
    float* dweights;
    Out y;
    bool past_caches;
};

// The functions return 0, 1 where there is no memory for the work space, or kBadIndex.
struct ExpertsTable {
    int (*route[kStorageTypes])(const RouteArgs&, int threads);
    int (*combine[kStorageTypes])(const CombineArgs&, int threads);
};

}  // namespace jpllm
