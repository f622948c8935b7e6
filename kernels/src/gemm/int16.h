// The engine of 16-bit integers: where blocks are packed, each line (row of A, column of B) is quantised with a power
// of two of its own, and a tile sums the products exactly. On A64FX an SDOT has four multiply-adds in each 64-bit lane,
// twice the rate of FP32. (Das et al., arXiv:1802.00930, train so with one power of two a tensor.)
//
// A block is 512 steps of K. A line's factor s in a block is 2^(e - 14), 2^e being the largest power of two up to the
// line's largest magnitude there, or twice that where this one would round to 2^15; 2^-125 at least. Its integers are
// x / s, rounded to nearest, ties to even: 32767 at most. A NaN or an infinity makes the factor NaN. The integer sum of
// a block, below 2^39, times both factors is rounded once to FP32 and added, block by block, to C's FP32 sum. So the
// bits depend on K alone. Denormals are zero, as FPCR.FZ has it: read in A and B (they are less than half of 2^-125) or
// C, and made, before they are rounded.
//
// Packed, a sliver of W lines is rows of W 64-bit words: for each kInt16Group steps of K what each line has of them,
// then the factors in FP64. SVE: four int16. Elsewhere: one of them as an FP64 number, whose multiply-adds are exact
// here, too, and take less time than to widen the 32-bit sums of pairs.
#pragma once
#include "../../simd/half.h"
#include "finish.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

constexpr int kWordLanes = V::N / 2;
constexpr int64_t kInt16Block = 512;

#if defined(__ARM_FEATURE_SVE)

constexpr int kInt16Group = 4;
typedef svint64_t WordLanes __attribute__((arm_sve_vector_bits(__ARM_FEATURE_SVE_BITS)));

// Sums of a tile, and packed words.
struct Words {
    WordLanes v;

    static Words zero() { return {svdup_n_s64(0)}; }
    static Words set(const int64_t* p) { return {svdup_n_s64(*p)}; }
    static Words load(const int64_t* p) { return {svld1_s64(svptrue_b64(), p)}; }

    // The sums in FP32, one in the lower half of each 64-bit lane.
    svfloat32_t scaled(Words row_factor, Words factors) const {
        const svbool_t all = svptrue_b64();
        const svfloat64_t row = svreinterpret_f64_s64(row_factor.v), col = svreinterpret_f64_s64(factors.v);
        return svcvt_f32_f64_x(all, svmul_f64_x(all, svmul_f64_x(all, svcvt_f64_s64_x(all, v), row), col));
    }
    void store_scaled(Words row_factor, Words factors, float* to, bool add) const {
        const svbool_t all = svptrue_b64();
        uint32_t* at = reinterpret_cast<uint32_t*>(to);
        svfloat32_t x = scaled(row_factor, factors);
        if (add) x = svadd_f32_x(svptrue_b32(), svreinterpret_f32_u64(svld1uw_u64(all, at)), x);
        svst1w_u64(all, at, svreinterpret_u64_f32(x));
    }
};
inline Words multiply_add(Words a, Words b, Words sum) {
    return {svdot_s64(sum.v, svreinterpret_s16_s64(a.v), svreinterpret_s16_s64(b.v))};
}

// The largest magnitude of each lane, as bits: a NaN's are the largest.
inline void largest_of(const float* stage, int64_t k, uint32_t* out) {
    svuint32_t most = svdup_n_u32(0);
    for (int64_t p = 0; p < k; ++p) {
        const svuint32_t x = svreinterpret_u32_f32(V::load(stage + p * V::N).v);
        most = svmax_u32_x(svptrue_b32(), most, svand_n_u32_x(svptrue_b32(), x, 0x7fffffff));
    }
    svst1_u32(svptrue_b32(), out, most);
}

// A group of V::N lines: the words of the first half of them, and of the others.
inline void quantise(const float* stage, V factor, int64_t* low, int64_t* high) {
    const svbool_t all = svptrue_b32();
    const auto step = [&](int p) {
        return svreinterpret_u32_s32(svcvt_s32_f32_x(all, round(V::load(stage + p * V::N) * factor).v));
    };
    const auto pair = [&](int p) {
        return svorr_u32_x(all, svand_n_u32_x(all, step(p), 0xffff), svlsl_n_u32_x(all, step(p + 1), 16));
    };
    const svuint32_t first = pair(0), second = pair(2);
    if (low != nullptr) svst1_s64(svptrue_b64(), low, svreinterpret_s64_u32(svzip1_u32(first, second)));
    if (high != nullptr) svst1_s64(svptrue_b64(), high, svreinterpret_s64_u32(svzip2_u32(first, second)));
}

inline void store_int16_edge(const float* sums, int pitch, const TileOut& out) { store_edge(sums, pitch, out); }

#else

constexpr int kInt16Group = 1;
typedef double WordLanes __attribute__((vector_size(8 * kWordLanes)));
constexpr double kSmallestFp32 = 1.17549435082228750797e-38;

struct Words {
    WordLanes v;

    static Words zero() { return {WordLanes{}}; }
    // x - 0 is x whatever x is, and compilers know it.
    static Words set(const int64_t* p) { return {*reinterpret_cast<const double*>(p) - WordLanes{}}; }
    static Words load(const int64_t* p) {
        Words r;
        memcpy(&r.v, p, sizeof r.v);
        return r;
    }
    void store_scaled(Words row_factor, Words factors, float* to, bool) const {
        const WordLanes x = v * row_factor.v * factors.v;
        for (int l = 0; l < kWordLanes; ++l) {
            const double size = x[l] < 0 ? -x[l] : x[l];
            to[l] = static_cast<float>(size < kSmallestFp32 ? 0 * x[l] : x[l]);
        }
    }
};
inline Words multiply_add(Words a, Words b, Words sum) { return {a.v * b.v + sum.v}; }

inline void largest_of(const float* stage, int64_t k, uint32_t* out) {
    Bits most = {};
    for (int64_t p = 0; p < k; ++p) {
        const Bits x = bits_of(V::load(stage + p * V::N)) & kMagnitude, more = x > most;
        most = (x & more) | (most & ~more);
    }
    memcpy(out, &most, sizeof most);
}

inline void quantise(const float* stage, V factor, int64_t* low, int64_t* high) {
    float lanes[V::N];
    double wide[V::N];
    round(V::load(stage) * factor).store(lanes);
    for (int l = 0; l < V::N; ++l) wide[l] = lanes[l];
    if (low != nullptr) memcpy(low, wide, sizeof wide / 2);
    if (high != nullptr) memcpy(high, wide + kWordLanes, sizeof wide / 2);
}

inline V without_denormals(V x) {
    const Bits s = bits_of(x), normal = (s & kMagnitude) >= 0x00800000;
    return from_bits(s & (normal | kSign));
}
inline void store_int16_edge(const float* sums, int pitch, const TileOut& out) {
    for (int i = 0; i < out.rows; ++i) {
        for_vectors(out.cols, [&](int64_t j, int n) {
            float* c = out.c + i * out.c_rs + j;
            V x = V::load(sums + i * pitch + j);
            if (out.add) x = without_denormals(without_denormals(load_part(c, n)) + x);
            store_part(x, c, n);
        });
    }
}

#endif

inline int64_t int16_groups(int64_t k) { return (k + kInt16Group - 1) / kInt16Group; }

// The factors of a line, from the bits of its largest magnitude.
inline float to_integers(uint32_t largest, int64_t* factor) {
    uint32_t exponent = (largest + 0x100) >> 23;  // of it, rounded to 15 bits
    if (exponent < 16) exponent = 16;
    const bool finite = largest < 0x7f800000;
    *factor = finite ? static_cast<int64_t>(exponent + 1023 - 127 - 14) << 52 : INT64_C(0x7ff8) << 48;
    const uint32_t bits = finite ? (127 + 127 + 14 - exponent) << 23 : 0;
    float r;
    memcpy(&r, &bits, sizeof r);
    return r;
}

// k steps of up to V::N lines in FP32, a vector of lines a step; zeroes beyond the last line.
template <class T>
inline void stage_lines(const T* from, int64_t line_stride, int64_t k_stride, int lines, int64_t k, float* to) {
    constexpr int64_t ahead = 8;
    if (k_stride == 1) {
        for (int64_t p = 0; p < k; p += V::N) {
            const int steps = static_cast<int>(least(V::N, k - p));
            V r[V::N];
            if (lines == V::N && steps == V::N) {
                load_transposed(r, from + p, line_stride);
            } else {
                for (int l = 0; l < V::N; ++l)
                    r[l] = l < lines ? load_part(from + l * line_stride + p, steps) : V::zero();
                transpose(r);
            }
            for (int s = 0; s < steps; ++s) r[s].store(to + (p + s) * V::N);
        }
    } else if (line_stride == 1) {
        for (int64_t p = 0; p < k; ++p, from += k_stride) {
            prefetch(from + ahead * k_stride);
            load_part(from, lines).store(to + p * V::N);
        }
    } else {
        for (int64_t p = 0; p < k; ++p) {
            for (int l = 0; l < V::N; ++l)
                to[p * V::N + l] = l < lines ? to_float(from[l * line_stride + p * k_stride]) : 0.0f;
        }
    }
}

// Lines to slivers of `width` of them, a multiple of kWordLanes. Element (line, p) lies at from[line * line_stride + p
// * k_stride].
template <class T>
__attribute__((noinline)) void pack_int16(const T* from, int64_t line_stride, int64_t k_stride, int64_t lines,
                                          int64_t k, int64_t width, float* to) {
    const int64_t groups = int16_groups(k);
    alignas(64) float stage[kInt16Block * V::N];
    for (int64_t line = 0; line < lines; line += V::N, from += V::N * line_stride) {
        stage_lines(from, line_stride, k_stride, static_cast<int>(least(V::N, lines - line)), k, stage);
        for (int64_t p = k; p < groups * kInt16Group; ++p) V::zero().store(stage + p * V::N);
        uint32_t largest[V::N];
        largest_of(stage, k, largest);
        int64_t factors[V::N];
        float inverse[V::N];
        for (int l = 0; l < V::N; ++l) inverse[l] = to_integers(largest[l], &factors[l]);
        // Where the words of a half of the lines go; a sliver's rows of words are `width` apart.
        const auto place = [&](int64_t first) -> int64_t* {
            if (first >= round_up(lines, width)) return nullptr;
            return reinterpret_cast<int64_t*>(to) + first / width * width * (groups + 1) + first % width;
        };
        int64_t *low = place(line), *high = place(line + kWordLanes);
        const V factor = V::load(inverse);
        for (int64_t g = 0; g < groups; ++g) {
            quantise(stage + g * kInt16Group * V::N, factor, low, high);
            if (low != nullptr) low += width;
            if (high != nullptr) high += width;
        }
        if (low != nullptr) memcpy(low, factors, sizeof factors / 2);
        if (high != nullptr) memcpy(high, factors + kWordLanes, sizeof factors / 2);
    }
}

template <int MR, int NV>
__attribute__((noinline)) void int16_tile(int64_t groups, const float* packed_a, int64_t, int64_t,
                                          const float* packed_b, int64_t, const TileOut& out) {
    constexpr int cols = NV * kWordLanes;
    const int64_t* a = reinterpret_cast<const int64_t*>(packed_a);
    const int64_t* b = reinterpret_cast<const int64_t*>(packed_b);
    Words acc[MR][NV];
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            acc[i][j] = Words::zero();
    }
    const bool whole = kInt16Group > 1 && whole_tile<MR, cols>(out);
    for (int64_t g = 0; g < groups; ++g) {
        Words row[NV];
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            row[j] = Words::load(b + j * kWordLanes);
        if (Tuning::prefetch > 0) prefetch(b + Tuning::prefetch / 8);
        JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
            const Words x = Words::set(a + i);
            JPLLM_UNROLL for (int j = 0; j < NV; ++j)
                acc[i][j] = multiply_add(x, row[j], acc[i][j]);
        }
        a += kTileRows, b += cols;
    }
    alignas(64) float sums[MR * cols + V::N];  // read by whole vectors
    float* to = whole ? out.c : sums;
    const int64_t to_rs = whole ? out.c_rs : cols;
    Words col[NV];
    JPLLM_UNROLL for (int j = 0; j < NV; ++j)
        col[j] = Words::load(b + j * kWordLanes);
    JPLLM_UNROLL for (int i = 0; i < MR; ++i) {
        const Words row = Words::set(a + i);
        JPLLM_UNROLL for (int j = 0; j < NV; ++j)
            acc[i][j].store_scaled(row, col[j], to + i * to_rs + j * kWordLanes, whole && out.add);
    }
    if (!whole) store_int16_edge(sums, cols, out);
}

// For rows that are no power of two some are multiplied for nothing.
template <int MR = kTileRows>
inline TileFunction int16_tile_for(int rows, int vectors) {
    if constexpr (MR > 1) {
        if (2 * rows <= MR) return int16_tile_for<MR / 2>(rows, vectors);
    }
    return vectors == 1 ? int16_tile<MR, 1> : vectors == 2 ? int16_tile<MR, 2> : int16_tile<MR, kTileVectors>;
}

struct Int16 {
    static constexpr int rows = kTileRows, vectors = kTileVectors, lanes = kWordLanes, cols = vectors * lanes;
    static constexpr int64_t block_k = kInt16Block;
    static constexpr bool in_place = false;
    using Slivers = SliversOf<vectors, lanes>;

    static constexpr int64_t floats(int64_t k) { return 2 * ((k + kInt16Group - 1) / kInt16Group + 1); }
    static int64_t steps(int64_t k) { return int16_groups(k); }
    static int64_t k_unit(const GemmArgs&) { return kInt16Block; }

    static void pack_a(const Operand& a, int64_t i0, int64_t i1, int64_t p0, int64_t p1, float* to) {
        at_element(a, i0, p0, [&](auto* from) { pack_int16(from, a.rs, a.cs, i1 - i0, p1 - p0, rows, to); });
    }
    static void pack_b(const Operand& b, int64_t p0, int64_t p1, int64_t j, int n, int width, float* to) {
        at_element(b, p0, j, [&](auto* from) { pack_int16(from, b.cs, b.rs, n, p1 - p0, width * lanes, to); });
    }
    static TileFunction tile(int tile_rows, int width) { return int16_tile_for(tile_rows, width); }
};

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
