// Rows of a table and the sums of their gradients, against plain loops in the same order: the same bits.
#include "support.h"

namespace {

void test_table(jpllm_dtype type, int64_t n, int64_t v, int64_t d, bool uneven) {
    const std::string what = "embedding " + std::to_string(n) + " of " + std::to_string(v) + "x" + std::to_string(d) +
                             ", type " + std::to_string(type);
    Stored table(type, random_floats(v * d, 1)), dy(type, random_floats(n * d, 2));
    std::vector<int64_t> ids(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) ids[static_cast<size_t>(i)] = uneven && i % 4 != 0 ? v / 2 : (i * 7919 + 3) % v;
    Floats want_y(static_cast<size_t>(n * d)), want_sums(static_cast<size_t>(v * d));
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < d; ++j) {
            const size_t from = static_cast<size_t>(ids[static_cast<size_t>(i)] * d + j),
                         at = static_cast<size_t>(i * d + j);
            want_y[at] = table.wide[from];
            want_sums[from] += dy.wide[at];
        }
    }
    Stored want(type, want_sums);
    for (const int threads : {1, 3}) {
        Stored y(type, Floats(want_y.size(), 7.0f)), sums(type, Floats(want_sums.size(), 7.0f));
        expect(jpllm_embedding(type, n, v, d, ids.data(), table.data(), d, y.data(), d, threads) == JPLLM_OK, what);
        expect(jpllm_embedding_backward(type, n, v, d, ids.data(), dy.data(), d, sums.data(), d, threads) == JPLLM_OK,
               what);
        same_bits(what, y.read(), want_y);
        same_bits(what + " backward", sums.read(), want.read());
    }
}

}  // namespace

void test_embedding() {
    for (const jpllm_dtype type : {JPLLM_FP32, JPLLM_BF16, JPLLM_FP16}) {
        for (const int64_t past : {int64_t{0}, int64_t{-1}}) {
            jpllm_set_past_caches(past);
            test_table(type, 40, 7, 37, false), test_table(type, 1, 3, 1, false);
            test_table(type, 3000, 11, 50, true), test_table(type, 0, 5, 9, false);
        }
    }
    jpllm_set_past_caches(-1);
    const float x[4] = {};
    float y[4];
    for (const int64_t wrong : {int64_t{-1}, int64_t{2}}) {
        const int64_t ids[2] = {0, wrong};
        expect(jpllm_embedding(JPLLM_FP32, 2, 2, 2, ids, x, 2, y, 2, 1) == JPLLM_ERR_INDEX, "embedding of a wrong id");
        expect(jpllm_embedding_backward(JPLLM_FP32, 2, 2, 2, ids, x, 2, y, 2, 1) == JPLLM_ERR_INDEX,
               "embedding_backward of a wrong id");
    }
}
