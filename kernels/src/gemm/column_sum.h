// Sums over the rows of a matrix: the gradient of a bias.
#pragma once
#include "../core/rows.h"
#include "args.h"

namespace jpllm {
namespace JPLLM_ISA_NAME {
namespace {

struct ColumnSumCall {
    ColumnSumArgs args;
    float* partial;
};

template <class T>
inline int column_sum(const ColumnSumArgs& args, int threads) {
    const int64_t blocks = row_blocks(args.m);
    ColumnSumCall call{args, static_cast<float*>(workspace(static_cast<size_t>(blocks * args.n + 1) * sizeof(float)))};
    if (call.partial == nullptr) return 1;
    run_team(
        worthwhile(threads, static_cast<double>(args.m) * static_cast<double>(args.n) * 0.1),
        [](const Team& team, void* context) {
            const ColumnSumArgs& a = static_cast<ColumnSumCall*>(context)->args;
            float* partial = static_cast<ColumnSumCall*>(context)->partial;
            int64_t start, stop;
            team.split(row_blocks(a.m), 1, &start, &stop);
            for (int64_t b = start; b < stop; ++b) {
                const int64_t first = b * rows_a_block(a.m);
                const int64_t last = first + rows_a_block(a.m) < a.m ? first + rows_a_block(a.m) : a.m;
                for_vectors(a.n, [&](int64_t j, int lanes) {
                    V s = V::zero();
                    for (int64_t i = first; i < last; ++i)
                        s = s + load_part(static_cast<const T*>(a.x) + i * a.x_rs + j, lanes);
                    store_part(s, partial + b * a.n + j, lanes);
                });
            }
            team.barrier();
            sum_blocks(team, partial, row_blocks(a.m), a.n, a.out);
        },
        &call);
    return 0;
}

}  // namespace
}  // namespace JPLLM_ISA_NAME
}  // namespace jpllm
