// What is done with the finished sums of a tile, the one hook after the last step of K: the SwiGLU gate is applied,
// bias and residual are added, the result is rounded to C's type and stored.
#pragma once
#include "../../simd/math.h"
#include "pack.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

inline bool there(const Operand& x) { return x.data != nullptr; }
inline bool there(const Result& x) { return x.data != nullptr; }
inline Operand as_operand(const Result& x) { return {x.data, x.rs, x.cs, x.type}; }

// n elements (i, j), (i, j + 1), ... of x.
inline V load_operand(const Operand& x, int64_t i, int64_t j, int n) {
    V r = V::zero();
    at_element(x, i, j, [&](auto* from) {
        if (x.cs == 1) {
            r = load_part(from, n);
        } else if (x.cs == 0) {
            r = V::set(to_float(*from));
        } else {
            float lanes[V::N] = {};
            for (int l = 0; l < n; ++l) lanes[l] = to_float(from[l * x.cs]);
            r = V::load(lanes);
        }
    });
    return r;
}

// rows x cols values, `pitch` apart, to elements that lie rs and cs apart.
template <class T>
inline void store_values(const float* values, int pitch, int rows, int cols, T* to, int64_t rs, int64_t cs) {
    if (cs == 1) {
        for (int i = 0; i < rows; ++i) {
            for (int j = 0; j < cols; j += V::N) {
                store_part(V::load(values + i * pitch + j), to + i * rs + j, cols - j < V::N ? cols - j : V::N);
            }
        }
        return;
    }
    if (rs == 1 && rows == kTileRows && kTileRows <= V::N) {
        // A transposed result has the rows of a tile side by side.
        for (int j = 0; j < cols; j += V::N) {
            V r[V::N];
            JPLLM_UNROLL for (int i = 0; i < V::N; ++i)
                r[i] = i < kTileRows ? V::load(values + i * pitch + j) : V::zero();
            transpose(r);
            V lines[V::N];
            memcpy(lines, r, sizeof lines);
            for (int l = 0; l < V::N && j + l < cols; ++l) store_part(lines[l], to + (j + l) * cs, kTileRows);
        }
        return;
    }
    for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < cols; ++j) to[i * rs + j * cs] = from_float<T>(values[i * pitch + j]);
    }
}

inline void store_result(const float* values, int pitch, const Result& c, int64_t i, int64_t j, int rows, int cols) {
    at_element(as_operand(c), i, j, [&](auto* at) {
        using T = typename Storage<decltype(at)>::type;
        store_values(values, pitch, rows, cols, const_cast<T*>(at), c.rs, c.cs);
    });
}

// Rows [i, i + rows) x columns [j, j + cols) of the product from sums whose rows lie `rs` apart; at most ROWS x COLS.
template <int ROWS, int COLS>
__attribute__((noinline)) void finish_tile(const GemmArgs& g, bool add_c, int64_t i, int64_t j, int rows, int cols,
                                           const float* sums, const float* up_sums, int64_t rs) {
    float out[ROWS * COLS], gate[ROWS * COLS], up[ROWS * COLS];
    const Operand c = as_operand(g.c);
    for (int r = 0; r < rows; ++r) {
        for (int at = 0; at < cols; at += V::N) {
            const int n = cols - at < V::N ? cols - at : V::N, to = r * COLS + at;
            V x = load_part(sums + r * rs + at, n);
            if (up_sums != nullptr) {
                const V u = load_part(up_sums + r * rs + at, n);
                x.store(gate + to), u.store(up + to);
                x = x * sigmoid(x) * u;
            }
            for (const Operand& more : g.added) {
                if (there(more)) x = x + load_operand(more, i + r, j + at, n);
            }
            if (add_c) x = x + load_operand(c, i + r, j + at, n);
            x.store(out + to);
        }
    }
    store_result(out, COLS, g.c, i, j, rows, cols);
    if (up_sums == nullptr) return;
    if (there(g.gate_out)) store_result(gate, COLS, g.gate_out, i, j, rows, cols);
    if (there(g.up_out)) store_result(up, COLS, g.up_out, i, j, rows, cols);
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
