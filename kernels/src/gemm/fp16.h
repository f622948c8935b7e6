// The engine of chunked FP16: FP16 multiply-adds over a chunk of K, whose sum then is added to an FP32 one. On A64FX
// FP16 has twice the lanes of FP32; there is no multiply-add of FP16 into FP32.
//
// C's FP32 sum starts from 0 (or from C, where that is where sums are kept) and takes the chunks one by one, in order,
// so that its bits depend on the chunk alone: they are the same on every instruction set (simd/half.h).
#pragma once
#include "../../simd/half.h"
#include "pack.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

#if defined(__ARM_FEATURE_SVE)

// 32-bit lanes of two halves: n of `low` and, in the upper parts, n of `high`; zeroes where there is no such line.
inline V pair_halves(const uint16_t* low, bool has_low, const uint16_t* high, bool has_high, int n) {
    const svbool_t lanes = svwhilelt_b32_s32(0, n);
    svuint32_t x = svdup_n_u32(0);
    if (has_low) x = svld1uh_u32(lanes, low);
    if (has_high) x = svorr_u32_x(svptrue_b32(), x, svlsl_n_u32_x(svptrue_b32(), svld1uh_u32(lanes, high), 16));
    return {svreinterpret_f32_u32(x)};
}

// Packs lines (rows of A or columns of B) of halves. Element (line, p) lies at from[line * line_stride + p * k_stride].
// Rows: slivers of kTileRows, `pitch` halves apart. Columns: one sliver of `pitch` halves a step; each vector has its
// first columns in the even lanes and the others in the odd lanes, so that the FP32 sums of either lie side by side.
template <bool Rows>
inline void pack_halves(const uint16_t* from, int64_t line_stride, int64_t k_stride, int64_t lines, int64_t k,
                        uint16_t* to, int64_t pitch) {
    const auto line_of = [](int lane, int half) { return Rows ? 2 * lane + half : lane + V::N * half; };
    for (int64_t line = 0; line < lines; line += H::N, from += H::N * line_stride) {
        const int count = static_cast<int>(least(H::N, lines - line));
        const auto store = [&](svuint16_t x, int64_t p) {
            if (!Rows) return svst1_u16(svptrue_b16(), to + line + p * pitch, x);
            JPLLM_UNROLL for (int row = 0; row < H::N; row += kTileRows) {
                if (row >= count) continue;
                const svbool_t before = svwhilelt_b16_s32(0, row);
                const svbool_t own = svbic_b_z(svptrue_b16(), svwhilelt_b16_s32(0, row + kTileRows), before);
                svst1_u16(own, to + (line + row) / kTileRows * pitch + p * kTileRows - row, x);
            }
        };
        if (k_stride == 1) {
            for (int64_t p = 0; p < k; p += V::N) {
                const int steps = static_cast<int>(least(V::N, k - p));
                V r[V::N];
                JPLLM_UNROLL for (int lane = 0; lane < V::N; ++lane) {
                    const int low = line_of(lane, 0), high = line_of(lane, 1);
                    r[lane] = pair_halves(from + low * line_stride + p, low < count, from + high * line_stride + p,
                                          high < count, steps);
                }
                transpose(r);
                JPLLM_UNROLL for (int step = 0; step < V::N; ++step) {
                    if (step < steps) store(svreinterpret_u16_f32(r[step].v), p + step);
                }
            }
        } else if (line_stride == 1) {
            constexpr int64_t ahead = 8;
            const svbool_t all = svwhilelt_b16_s32(0, count);
            const svbool_t first = svwhilelt_b16_s32(0, count < V::N ? count : V::N);
            const svbool_t second = svwhilelt_b16_s32(V::N, count);
            const uint16_t* source = from;
            for (int64_t p = 0; p < k; ++p, source += k_stride) {
                prefetch(source + ahead * k_stride);
                store(Rows ? svld1_u16(all, source)
                           : svzip1_u16(svld1_u16(first, source), svld1_u16(second, source + V::N)),
                      p);
            }
        } else {
            for (int64_t p = 0; p < k; ++p) {
                uint16_t lanes[H::N] = {};
                for (int lane = 0; lane < H::N; ++lane) {
                    const int l = line_of(lane / 2, lane % 2);
                    if (l < count) lanes[lane] = from[l * line_stride + p * k_stride];
                }
                store(svld1_u16(svptrue_b16(), lanes), p);
            }
        }
    }
}

// Steps [0, k) of a tile: sums[to] = sums[from] + A B. FP16 sums in registers, FP32 ones in memory.
template <int MR, int NV>
inline __attribute__((always_inline)) void add_chunk(int64_t k, const fp16* a, const fp16* b, const float* from,
                                                     int64_t from_rs, float* to, int64_t to_rs) {
    H acc[MR][NV];
    const auto step = [&](auto add) __attribute__((always_inline)) {
        H row[NV];
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            row[j] = H::load(b + j * H::N);
        if (Tuning::prefetch > 0) prefetch(b + Tuning::prefetch / 2);
        JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
            const H x = H::set(a[i]);
            JPLLM_UNROLL for (int j = 0; j < NV; ++j)
                acc[i][j] = add(x, row[j], acc[i][j]);
        }
        a += kTileRows, b += NV * H::N;
    };
    step([](H x, H y, H) { return x * y; });
    for (int64_t p = 1; p < k; ++p) step([](H x, H y, H sum) { return fma(x, y, sum); });
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j) {
            (V::load(from + 2 * j * V::N) + acc[i][j].even()).store(to + 2 * j * V::N);
            (V::load(from + (2 * j + 1) * V::N) + acc[i][j].odd()).store(to + (2 * j + 1) * V::N);
        }
        from += from_rs, to += to_rs;
    }
}

// The chunks between the first and the last go to sums on the stack: rows of C may lie where they evict one another.
template <int MR, int NV>
__attribute__((noinline)) void fp16_tile(int64_t k, const float* packed_a, int64_t, int64_t, const float* packed_b,
                                         int64_t, const TileOut& out) {
    constexpr int cols = NV * H::N;
    if (k == 0 && out.add) return;
    const fp16* a = reinterpret_cast<const fp16*>(packed_a);
    const fp16* b = reinterpret_cast<const fp16*>(packed_b);
    alignas(64) float sums[MR * cols];
    const bool whole = out.rows == MR && out.cols == cols;
    const float* from = whole && out.add ? out.c : sums;
    int64_t from_rs = whole && out.add ? out.c_rs : cols;
    if (!out.add || !whole) {
        JPLLM_UNROLL for (int i = 0; i < MR * cols; i += V::N)
            V::zero().store(sums + i);
    }
    if (out.add && !whole) {
        for (int i = 0; i < out.rows; ++i) {
            for_vectors(out.cols, [&](int64_t j, int lanes) {
                load_part(out.c + i * out.c_rs + j, lanes).store(sums + i * cols + j);
            });
        }
    }
    for (int64_t p = 0; p < k; p += out.chunk) {
        const bool last = whole && p + out.chunk >= k;
        add_chunk<MR, NV>(least(out.chunk, k - p), a + p * kTileRows, b + p * cols, from, from_rs, last ? out.c : sums,
                          last ? out.c_rs : cols);
        from = sums, from_rs = cols;
    }
    if (whole && k > 0) return;
    TileOut edge = out;
    edge.add = false;
    store_edge(sums, cols, edge);
}

template <int MR = kTileRows>
inline TileFunction fp16_tile_for(int rows, int vectors) {
    if constexpr (MR > 1) {
        if (rows < MR) return fp16_tile_for<MR - 1>(rows, vectors);
    }
    return vectors == 1 ? fp16_tile<MR, 1> : vectors == 2 ? fp16_tile<MR, 2> : fp16_tile<MR, kTileVectors>;
}

struct Fp16Chunk {
    static constexpr int rows = kTileRows, vectors = kTileVectors, lanes = H::N, cols = vectors * lanes;
    static constexpr int64_t block_k = Tuning::block_k;
    static constexpr bool in_place = false;
    using Slivers = SliversOf<vectors, lanes>;

    static constexpr int64_t floats(int64_t k) { return (k + 1) / 2; }
    static int64_t steps(int64_t k) { return k; }
    static int64_t k_unit(const GemmArgs& g) { return g.chunk; }

    static void pack_a(const Operand& a, int64_t i0, int64_t i1, int64_t p0, int64_t p1, float* to) {
        pack_halves<true>(halves(a, i0, p0), a.rs, a.cs, i1 - i0, p1 - p0, reinterpret_cast<uint16_t*>(to),
                          2 * rows * floats(p1 - p0));
    }
    static void pack_b(const Operand& b, int64_t p0, int64_t p1, int64_t j, int n, int width, float* to) {
        pack_halves<false>(halves(b, p0, j), b.cs, b.rs, n, p1 - p0, reinterpret_cast<uint16_t*>(to), width * lanes);
    }
    static TileFunction tile(int tile_rows, int width) { return fp16_tile_for(tile_rows, width); }

private:
    static const uint16_t* halves(const Operand& x, int64_t i, int64_t j) {
        return static_cast<const uint16_t*>(x.data) + i * x.rs + j * x.cs;
    }
};

#else

// NV vectors of columns from j on, of which the last has `lanes`.
template <int MR, int NV>
inline __attribute__((always_inline)) void fp16_columns(int64_t k, const float* a, const float* b, int64_t b_rs, int j,
                                                        int lanes, const TileOut& out) {
    V sums[MR][NV];
    const auto lanes_of = [&](int v) { return v == NV - 1 ? lanes : V::N; };
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int v = 0; v < NV; ++v)
            sums[i][v] = out.add ? load_part(out.c + i * out.c_rs + j + v * V::N, lanes_of(v)) : V::zero();
    }
    for (int64_t start = 0; start < k; start += out.chunk) {
        const int64_t stop = least(start + out.chunk, k);
        V acc[MR][NV];
        JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
            JPLLM_UNROLL for (int v = 0; v < NV; ++v)
                acc[i][v] = V::set(-0.0f);  // -0 + x is x, of either sign: as a product alone
        }
        for (int64_t p = start; p < stop; ++p) {
            V row[NV];
            JPLLM_UNROLL for (int v = 0; v < NV; ++v)
                row[v] = V::load(b + p * b_rs + j + v * V::N);
            JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
                JPLLM_UNROLL for (int v = 0; v < NV; ++v)
                    acc[i][v] = half_fma(V::set(a[p * kTileRows + i]), row[v], acc[i][v]);
            }
        }
        JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
            JPLLM_UNROLL for (int v = 0; v < NV; ++v)
                sums[i][v] = sums[i][v] + acc[i][v];
        }
    }
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int v = 0; v < NV; ++v)
            store_part(sums[i][v], out.c + i * out.c_rs + j + v * V::N, lanes_of(v));
    }
}

// Fewer rows take more vectors in step: a chain of half_fma is long.
template <int MR>
__attribute__((noinline)) void fp16_tile(int64_t k, const float* a, int64_t, int64_t, const float* b, int64_t b_rs,
                                         const TileOut& out) {
    constexpr int NV = MR == 1 ? 3 : MR <= 3 ? 2 : 1;
    int j = 0;
    for (; j + (NV - 1) * V::N < out.cols; j += NV * V::N) {
        const int lanes = static_cast<int>(least(V::N, out.cols - j - (NV - 1) * V::N));
        fp16_columns<MR, NV>(k, a, b, b_rs, j, lanes, out);
    }
    for (; NV > 1 && j < out.cols; j += V::N) {
        fp16_columns<MR, 1>(k, a, b, b_rs, j, static_cast<int>(least(V::N, out.cols - j)), out);
    }
}

template <int MR = kTileRows>
inline TileFunction fp16_tile_for(int rows) {
    if constexpr (MR > 1) {
        if (rows < MR) return fp16_tile_for<MR - 1>(rows);
    }
    return fp16_tile<MR>;
}

// Simulated in FP32: packed as for FP32, and what FZ16 flushes flushed there.
struct Fp16Chunk : Fp32 {
    static constexpr bool in_place = false;
    static int64_t k_unit(const GemmArgs& g) { return g.chunk; }

    static void pack_a(const Operand& a, int64_t i0, int64_t i1, int64_t p0, int64_t p1, float* to) {
        Fp32::pack_a(a, i0, i1, p0, p1, to);
        flush(to, round_up(i1 - i0, rows) * (p1 - p0));
    }
    static void pack_b(const Operand& b, int64_t p0, int64_t p1, int64_t j, int n, int width, float* to) {
        Fp32::pack_b(b, p0, p1, j, n, width, to);
        flush(to, int64_t{width} * lanes * (p1 - p0));
    }
    static TileFunction tile(int tile_rows, int) { return fp16_tile_for(tile_rows); }

private:
    static void flush(float* x, int64_t n) {
        for_vectors(n, [&](int64_t at, int count) { store_part(flush_half(load_part(x + at, count)), x + at, count); });
    }
};

#endif

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
