// Matrix products against plain loops in double precision.
#include "support.h"

namespace {

void test_product(int64_t m, int64_t n, int64_t k) {
    const Floats a = random_floats(m * k, 1), b = random_floats(k * n, 2), start = random_floats(m * n, 3);
    const Floats bias = random_floats(n, 4);
    for (int form = 0; form < 16; ++form) {
        const bool ta = (form & 1) != 0, tb = (form & 2) != 0, tc = (form & 4) != 0, more = (form & 8) != 0;
        const std::string what = "gemm " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) +
                                 " form " + std::to_string(form);
        const int64_t a_rs = ta ? 1 : k, a_cs = ta ? m : 1, b_rs = tb ? 1 : n, b_cs = tb ? k : 1;
        const int64_t c_rs = tc ? 1 : n, c_cs = tc ? m : 1;
        Floats c[2] = {start, start};
        for (int run = 0; run < 2; ++run) {
            const jpllm_status status =
                jpllm_gemm(JPLLM_FP32, m, n, k, a.data(), a_rs, a_cs, b.data(), b_rs, b_cs, c[run].data(), c_rs, c_cs,
                           more ? nullptr : bias.data(), more, run == 0 ? 1 : 3);
            expect(status == JPLLM_OK, what + " status");
        }
        same_bits(what, c[0], c[1]);
        std::vector<double> want(start.size()), size(start.size());
        for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
                const size_t at = static_cast<size_t>(i * c_rs + j * c_cs);
                double sum = more ? start[at] : bias[static_cast<size_t>(j)], absolute = std::fabs(sum);
                for (int64_t p = 0; p < k; ++p) {
                    const double product = static_cast<double>(a[static_cast<size_t>(i * a_rs + p * a_cs)]) *
                                           b[static_cast<size_t>(p * b_rs + j * b_cs)];
                    sum += product, absolute += std::fabs(product);
                }
                want[at] = sum, size[at] = absolute;
            }
        }
        near(what, c[0], want, [&](size_t i) { return 4 * kEps * (size[i] + 1); });
    }
}

}  // namespace

void test_gemm() {
    const int64_t shapes[][3] = {{1, 1, 1},     {7, 5, 3},    {8, 48, 16},   {13, 97, 33},
                                 {33, 50, 300}, {1, 70, 260}, {200, 17, 40}, {5, 6, 0}};
    for (const auto& s : shapes) test_product(s[0], s[1], s[2]);
}
