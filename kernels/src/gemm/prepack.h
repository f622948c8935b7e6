// B packed once for many products: every block of the blocked driver's, in the order in which it takes them, behind a
// header that says what they are of. Columns come in panels of kPackedCols, a panel's blocks of K one behind the other.
#pragma once
#include "gemm.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

// What a packed B is of. Of another build, instruction set, type, size or math it is refused.
inline PackedHeader header_of(const GemmArgs& g) {
    PackedHeader h;
    memset(&h, 0, sizeof h);
    const char isa[] = JPLLM_TEXT(JPLLM_ISA_NAME);
    static_assert(sizeof isa <= sizeof h.isa, "the name of the instruction set is too long");
    memcpy(h.isa, isa, sizeof isa);
    h.layout = kPackedLayout, h.type = g.b.type, h.math = g.math, h.chunk = g.math == kFp16Chunk ? g.chunk : 0;
    h.pairs = by_pairs(g), h.n = g.n, h.k = g.k;
    return h;
}

// B as it is where A has its type, which is what packing is told.
inline int64_t packed_bytes(const GemmArgs& g) {
    int64_t floats = 0;
    with_engine(g, [&](auto engine) { floats = packed_floats<decltype(engine)>(g); });
    return static_cast<int64_t>(sizeof(PackedHeader)) + floats * static_cast<int64_t>(sizeof(float));
}

inline bool packed_fits(const GemmArgs& g, const void* packed) {
    const PackedHeader own = header_of(g);
    return memcmp(&own, packed, sizeof own) == 0;
}

inline int pack_b(const GemmArgs& args, void* packed, int threads) {
    const PackedHeader header = header_of(args);
    memcpy(packed, &header, sizeof header);
    struct Call {
        const GemmArgs* args;
        float* to;
    } call{&args, reinterpret_cast<float*>(static_cast<char*>(packed) + sizeof header)};
    run_team(
        worthwhile(threads, static_cast<double>(args.n) * static_cast<double>(args.k) * 0.5),
        [](const Team& team, void* context) {
            const Call& c = *static_cast<Call*>(context);
            with_engine(*c.args, [&](auto engine) { pack_panels<decltype(engine)>(team, *c.args, c.to); });
        },
        &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
