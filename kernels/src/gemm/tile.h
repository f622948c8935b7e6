// The micro-kernel: a tile of C in registers, FP32 sums of steps of a column of A times a row of B.
//
// Letters: M, N, K as in C[M,N] = A[M,K] B[K,N].
#pragma once
#include "../core/rows.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

constexpr int kTileRows = Tuning::tile_rows, kTileVectors = Tuning::tile_vectors;
constexpr int kTileCols = kTileVectors * V::N;

// FP32 sums of a tile: rows x cols of them count, and go to c or are added to what is there. `chunk` is for fp16.h.
struct TileOut {
    float* c;
    int64_t c_rs;
    int rows, cols;
    bool add;
    int chunk;
};

inline __attribute__((noinline)) void store_edge(const float* sums, int sums_rs, const TileOut& out) {
    for (int i = 0; i < out.rows; ++i) {
        float* c = out.c + i * out.c_rs;
        for (int j = 0; j < out.cols; j += V::N) {
            const int n = out.cols - j < V::N ? out.cols - j : V::N;
            const V x = V::load(sums + i * sums_rs + j);
            store_part(out.add ? x + load_part(c + j, n) : x, c + j, n);
        }
    }
}

// Asks for the tile's lines of C while its sums are made.
template <int MR, int COLS>
inline __attribute__((always_inline)) bool whole_tile(const TileOut& out) {
    if (out.rows != MR || out.cols != COLS) return false;
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int j = 0; j < COLS; j += Tuning::line)
            prefetch_to_write(out.c + i * out.c_rs + j);
    }
    return true;
}

template <int MR, int NV>
inline __attribute__((always_inline)) void store_tile(V (&acc)[MR][NV], const TileOut& out, bool whole) {
    if (whole) {
        JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
            float* c = out.c + i * out.c_rs;
            JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
                if (out.add) acc[i][j] = acc[i][j] + V::load(c + j * V::N);
                acc[i][j].store(c + j * V::N);
            }
        }
        return;
    }
    float sums[MR * NV * V::N];
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            acc[i][j].store(sums + (i * NV + j) * V::N);
    }
    store_edge(sums, NV * V::N, out);
}

// What a step adds to a sum, of a broadcast 32-bit word of A and a vector of B.
struct MultiplyAdd {
    static V add(V a, V b, V sum) { return fma(a, b, sum); }
};

// a[i * a_rs + p * a_cs] for i < MR, b[p * b_rs + j] for j < NV * V::N: packed or in place. A packed A has a_rs = 1 and
// its own instance, with fixed offsets from one pointer.
template <int MR, int NV, bool Packed, class Step>
__attribute__((noinline)) void tile(int64_t k, const float* a, int64_t a_rs, int64_t a_cs, const float* b, int64_t b_rs,
                                    const TileOut& out) {
    V acc[MR][NV];
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            acc[i][j] = V::zero();
    }
    const bool whole = whole_tile<MR, NV * V::N>(out);
    JPLLM_UNROLL_X86 for (int64_t p = 0; p < k; ++p) {
        V row[NV];
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            row[j] = V::load(b + j * V::N);
        if (Tuning::prefetch > 0) prefetch(b + Tuning::prefetch / 4);
        JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
            const V x = V::set(Packed ? a[i] : a[i * a_rs]);
            JPLLM_UNROLL for (int j = 0; j < NV; ++j)
                acc[i][j] = Step::add(x, row[j], acc[i][j]);
        }
        a += Packed ? kTileRows : a_cs;
        b += b_rs;
    }
    store_tile(acc, out, whole);
}

using TileFunction = void (*)(int64_t, const float*, int64_t, int64_t, const float*, int64_t, const TileOut&);

// The instance for so many rows and vectors.
template <bool Packed, class Step = MultiplyAdd, int MR = kTileRows>
inline TileFunction tile_for(int rows, int vectors) {
    if constexpr (MR > 1) {
        if (rows < MR) return tile_for<Packed, Step, MR - 1>(rows, vectors);
    }
    return vectors == 1   ? tile<MR, 1, Packed, Step>
           : vectors == 2 ? tile<MR, 2, Packed, Step>
                          : tile<MR, kTileVectors, Packed, Step>;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
