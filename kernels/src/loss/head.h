// What forward and backward of the loss share: how tokens and vocabulary are cut, and the products of a chunk.
//
// Letters: N tokens, V vocabulary (`v` or words in code, V is the vector type), D model width.
#pragma once
#include "../core/isas.h"
#include "../core/rows.h"
#include "../core/team.h"
#include "args.h"

namespace jpllm {

// Called, not included: the matrix product is most of what a unit takes to compile.
extern const GemmTable JPLLM_TABLE_OF_UNIT(GemmTable);

namespace JPLLM_ISA_NAME {
namespace {

// Tokens of a chunk and words of a block of it. They depend on the shape alone, and so do all sums.
struct Cut {
    int64_t tokens, words;
    int64_t blocks(int64_t v) const { return (v + words - 1) / words; }
    int64_t block_floats() const { return round_up(tokens * words, 64); }
};

// The least equal parts of n that are no longer than `most`, in multiples of `unit` (which may make the last shorter).
inline int64_t equal_part(int64_t n, int64_t most, int64_t unit) {
    const int64_t parts = n <= most ? 1 : (n + most - 1) / most;
    return round_up((n + parts - 1) / parts, unit);
}

inline Cut cut_head(const HeadArgs& head, int64_t most_tokens, int64_t most_words) {
    int64_t tokens_unit = Tuning::tile_rows, words_unit = Tuning::tile_vectors * V::N;
    if (head.math == kFp16Chunk) {
        // Sums over a part go on from the last part's: whole chunks, so that the bits depend on the chunk alone. Three
        // chunks are whole tiles, whatever the instruction set.
        tokens_unit = head.chunk, words_unit = 3 * head.chunk;
    }
    return {least(equal_part(head.n, most_tokens, tokens_unit), head.n),
            least(equal_part(head.v, most_words, words_unit), head.v)};
}

using Matrix = Operand;

inline const void* element(const void* p, int64_t index, StorageType type) {
    return static_cast<const char*>(p) + index * (type == kFp32 ? 4 : 2);
}
inline Matrix hidden_rows(const HeadArgs& h, int64_t n0) {
    return {element(h.hidden, n0 * h.hidden_rs, h.type), h.hidden_rs, h.hidden_cs, h.type};
}
inline Matrix weight_rows(const HeadArgs& h, int64_t v0) {
    return {element(h.weight, v0 * h.weight_rs, h.type), h.weight_rs, h.weight_cs, h.type};
}

// The products of a team over one piece of memory: c[M,N] (+)= a[M,K] b[K,N], c FP32 with rows c_rs apart.
struct Products {
    float* memory;
    Math math;
    int chunk;

    // Enough for the three products of a chunk.
    static int64_t floats(const Cut& cut, int64_t d) {
        const int64_t wide = cut.tokens > cut.words ? cut.tokens : cut.words, most = wide > d ? wide : d;
        return JPLLM_TABLE_OF_UNIT(GemmTable).floats(most, most, most);
    }
    void multiply(const Team& team, int64_t m, int64_t n, int64_t k, const Matrix& a, const Matrix& b, float* c,
                  int64_t c_rs, bool accumulate) const {
        GemmArgs args{m, n, k, a, b, {c, c_rs, 1, kFp32}};
        args.accumulate = accumulate;
        args.math = math, args.chunk = chunk;
        JPLLM_TABLE_OF_UNIT(GemmTable).in_team(team, args, memory);
    }
};

// Whether dlogits are rounded to the storage type: where the two products with them are then computed by pairs of BF16,
// at twice the speed. They are in error by 2^-8 of themselves at most, and so is a gradient by 2^-8 of the sum of its
// absolute terms; else they stay FP32.
inline bool rounded_dlogits(const HeadArgs& h) {
#if defined(JPLLM_BF16_DOT)
    return h.type == kBf16;
#else
    return (void)h, false;
#endif
}

// Nanoseconds of `products` products and their passes over the logits, on one thread.
inline double head_nanoseconds(const HeadArgs& head, double products) {
    return static_cast<double>(head.n) * static_cast<double>(head.v) *
           (products * static_cast<double>(head.d) / 25.0 + 1.0);
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
