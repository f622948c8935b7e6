// Checked arguments of attention, and the table that an instruction set has of it.
// Letters: B batch, S queries, T keys, H query heads, K key/value heads, D width of a head.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "../core/dtypes.h"

namespace jpllm {

// A tensor [B, S, H, D] or [B, T, K, D]; strides in elements, the last dimension contiguous.
struct HeadsView {
    void* data;
    int64_t batch, row, head;
};

struct AttentionArgs {
    int64_t batch, queries, keys, heads, kv_heads, dim;
    double scale;
    bool causal;
    int64_t window;  // 0: none
    // Documents: the first and last key of the query's own [B, S], and where other documents' keys lie between those,
    // numbers [B, S] and [B, T] that are equal within a document. Null where not needed.
    const int32_t *first, *last, *query_rank, *key_rank;
    HeadsView q, k, v, out;
    float* lse;  // [B, H, S]
    // Backward.
    HeadsView dout, dq, dk, dv;
};

// Both return 0, or 1 where there is no memory for the work space.
struct AttentionTable {
    int (*forward[kStorageTypes])(const AttentionArgs&, int threads);
    int (*backward[kStorageTypes])(const AttentionArgs&, int threads);
};

}  // namespace jpllm
