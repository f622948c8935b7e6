// Arguments of the matrix products, as checked by api.cpp, and what an instruction set's unit gives to it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "../core/dtypes.h"

namespace jpllm {

// A matrix in memory: element (i, j) lies at data + (i * rs + j * cs) elements of `type`.
struct Operand {
    const void* data = nullptr;
    int64_t rs = 0, cs = 0;
    StorageType type = kFp32;
    Operand turned() const { return {data, cs, rs, type}; }
};
struct Result {
    void* data = nullptr;
    int64_t rs = 0, cs = 0;
    StorageType type = kFp32;
};

// How a product is computed. kExact: FP32 sums. kFp16Chunk: FP16 sums over a chunk of K, then FP32 (fp16.h). kInt16:
// integers of 16 bits, exact sums over a block of K, then FP32 (int16.h).
enum Math { kExact, kFp16Chunk, kInt16 };

// C[M,N] = A[M,K] B[K,N] + added[0] + added[1] (+ C, where it accumulates), summed in FP32 and rounded once.
// With `up`: C = silu(A B) * (A up) + ..., and A B and A up are kept in gate_out and up_out where those have memory.
struct GemmArgs {
    int64_t m, n, k;
    Operand a, b;
    Result c;
    bool accumulate = false;
    Math math = kExact;
    int chunk = 32;         // steps of K
    Operand added[2] = {};  // a bias (rs = 0) and a residual, say
    Operand up = {};
    Result gate_out = {}, up_out = {};
    const void* packed = nullptr;  // b, by pack_b: used where b would be packed, without a gate
};

// At the beginning of a packed B (prepack.h); as long as a line of the cache, for what is behind it.
struct PackedHeader {
    char isa[16];
    int32_t layout, type, math, chunk, pairs, unused;
    int64_t n, k, more;
};
static_assert(sizeof(PackedHeader) == 64, "a packed B is aligned");
constexpr int32_t kPackedLayout = 1;  // another with every change to what is packed

struct GemmBatchArgs {
    const GemmArgs* products;
    int64_t count;
};

struct ColumnSumArgs {
    int64_t m, n;
    const void* x;
    int64_t x_rs;
    float* out;
};

struct Team;

// in_team and floats are for kernels of other families that multiply inside a team of their own.
struct GemmTable {
    int (*gemm)(const GemmArgs&, int threads);
    int (*gemm_batch)(const GemmBatchArgs&, int threads);
    int (*column_sum[kStorageTypes])(const ColumnSumArgs&, int threads);
    // Called by every thread of a team with the same arguments; ends with a barrier.
    void (*in_team)(const Team&, const GemmArgs&, float* memory);
    // Floats of `memory` that any product up to these sizes needs there.
    int64_t (*floats)(int64_t m, int64_t n, int64_t k);
    // B of a product packed for any M; `a` has the type that it will have.
    int64_t (*packed_bytes)(const GemmArgs&);
    int (*pack_b)(const GemmArgs&, void* packed, int threads);
    bool (*packed_fits)(const GemmArgs&, const void* packed);
};

}  // namespace jpllm
