// The loss against plain loops in double precision.
#include <algorithm>

#include "support.h"

namespace {

// 16-bit storage: logits are FP32's, a gradient of hidden is rounded, and on avx512bf16 so are the logits' gradients of
// BF16, which is `inner` of the sum of a gradient's absolute terms.
double rounding_of(jpllm_dtype dtype) { return dtype == JPLLM_FP32 ? 0 : dtype == JPLLM_BF16 ? 1.0 / 256 : 1.0 / 2048; }
double inner_of(jpllm_dtype dtype) { return dtype == JPLLM_BF16 && isa == "avx512bf16" ? rounding_of(dtype) : 0; }

void test_logsumexp(int64_t n, int64_t v, int64_t d, jpllm_dtype dtype) {
    const std::string what = "linear_logsumexp " + std::to_string(n) + "x" + std::to_string(v) + "x" +
                             std::to_string(d) + " dtype " + std::to_string(dtype);
    Stored stored_h(dtype, random_floats(n * d, 11)), stored_w(dtype, random_floats(v * d, 12));
    const Floats &h = stored_h.wide, &w = stored_w.wide, dlse = random_floats(n, 13);
    const Floats dtarget = random_floats(n, 14);
    std::vector<int64_t> targets(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) targets[static_cast<size_t>(i)] = i % 5 == 3 ? -100 : (i * 37) % (v + 2);
    Floats lse[2], logit[2], dh[2], dw[2];
    for (int run = 0; run < 2; ++run) {
        lse[run].resize(targets.size()), logit[run].resize(targets.size());
        dw[run].resize(w.size());
        Stored made(dtype, Floats(h.size()));
        const int threads = run == 0 ? 1 : 3;
        expect(jpllm_linear_logsumexp(dtype, n, v, d, stored_h.data(), d, 1, stored_w.data(), d, 1, targets.data(),
                                      lse[run].data(), logit[run].data(), JPLLM_MATH_EXACT, 0, threads) == JPLLM_OK,
               what);
        expect(jpllm_linear_logsumexp_backward(dtype, n, v, d, stored_h.data(), d, 1, stored_w.data(), d, 1,
                                               targets.data(), lse[run].data(), dlse.data(), dtarget.data(),
                                               made.data(), dw[run].data(), JPLLM_MATH_EXACT, 0, threads) == JPLLM_OK,
               what);
        dh[run] = made.read();
    }
    same_bits(what + " lse", lse[0], lse[1]), same_bits(what + " dh", dh[0], dh[1]);
    same_bits(what + " dw", dw[0], dw[1]);
    std::vector<double> want_lse(targets.size()), want_logit(targets.size()), want_dh(h.size()), want_dw(w.size());
    std::vector<double> size_dh(h.size()), size_dw(w.size());
    std::vector<double> logits(static_cast<size_t>(v));
    for (int64_t i = 0; i < n; ++i) {
        const size_t row = static_cast<size_t>(i);
        double total = 0;
        for (int64_t j = 0; j < v; ++j) {
            double dot = 0;
            for (int64_t p = 0; p < d; ++p) {
                dot += static_cast<double>(h[static_cast<size_t>(i * d + p)]) * w[static_cast<size_t>(j * d + p)];
            }
            logits[static_cast<size_t>(j)] = dot, total += std::exp(dot);
        }
        want_lse[row] = std::log(total);
        const bool counts = targets[row] >= 0 && targets[row] < v;
        want_logit[row] = counts ? logits[static_cast<size_t>(targets[row])] : 0;
        for (int64_t j = 0; j < v; ++j) {
            double g = dlse[row] * std::exp(logits[static_cast<size_t>(j)] - want_lse[row]);
            if (counts && targets[row] == j) g += dtarget[row];
            for (int64_t p = 0; p < d; ++p) {
                want_dh[static_cast<size_t>(i * d + p)] += g * w[static_cast<size_t>(j * d + p)];
                want_dw[static_cast<size_t>(j * d + p)] += g * h[static_cast<size_t>(i * d + p)];
                size_dh[static_cast<size_t>(i * d + p)] += std::fabs(g * w[static_cast<size_t>(j * d + p)]);
                size_dw[static_cast<size_t>(j * d + p)] += std::fabs(g * h[static_cast<size_t>(i * d + p)]);
            }
        }
    }
    near(what + " lse", lse[0], want_lse, [&](size_t i) { return 1e-6 * (std::fabs(want_lse[i]) + 3); });
    near(what + " target", logit[0], want_logit, [&](size_t i) { return 1e-6 * (std::fabs(want_logit[i]) + 3); });
    const double inner = inner_of(dtype), rounding = rounding_of(dtype);
    near(what + " dh", dh[0], want_dh,
         [&](size_t i) { return 2e-5 + rounding * std::fabs(want_dh[i]) + inner * size_dh[i]; });
    near(what + " dw", dw[0], want_dw, [&](size_t i) { return 2e-5 + inner * size_dw[i]; });
}

// The loss whose gradients forward makes, against the log-sum-exp's own, which is tested above.
void test_cross_entropy(int64_t n, int64_t v, int64_t d, jpllm_dtype dtype) {
    const std::string what = "linear_cross_entropy " + std::to_string(n) + "x" + std::to_string(v) + "x" +
                             std::to_string(d) + " dtype " + std::to_string(dtype);
    Stored stored_h(dtype, random_floats(n * d, 11)), stored_w(dtype, random_floats(v * d, 12));
    const Floats &h = stored_h.wide, &w = stored_w.wide;
    const double z = 1e-2;
    std::vector<int64_t> targets(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) targets[static_cast<size_t>(i)] = i % 5 == 3 ? -100 : (i * 37) % v;
    Floats lse(targets.size()), logit(targets.size()), dlse(targets.size()), dtarget(targets.size());
    jpllm_linear_logsumexp(JPLLM_FP32, n, v, d, h.data(), d, 1, w.data(), d, 1, targets.data(), lse.data(),
                           logit.data(), JPLLM_MATH_EXACT, 0, 1);
    double loss = 0, penalty = 0;
    for (size_t i = 0; i < targets.size(); ++i) {
        if (targets[i] < 0) continue;
        loss += static_cast<double>(lse[i]) - logit[i], penalty += z * lse[i] * lse[i];
        dlse[i] = static_cast<float>(1 + 2 * z * lse[i]), dtarget[i] = -1;
    }
    Floats dh[3], dw[3];
    double sums[2][2];
    for (int run = 0; run < 3; ++run) dh[run].resize(h.size()), dw[run].resize(w.size());
    for (int run = 0; run < 2; ++run) {
        Stored made(dtype, dh[run]);
        expect(jpllm_linear_cross_entropy(dtype, n, v, d, stored_h.data(), d, 1, stored_w.data(), d, 1, targets.data(),
                                          z, sums[run], made.data(), dw[run].data(), JPLLM_MATH_EXACT, 0,
                                          run == 0 ? 1 : 3) == JPLLM_OK,
               what);
        dh[run] = made.read();
    }
    expect(sums[0][0] == sums[1][0] && sums[0][1] == sums[1][1], what + ": one thread and three give different sums");
    same_bits(what + " dh", dh[0], dh[1]), same_bits(what + " dw", dw[0], dw[1]);
    expect(std::fabs(sums[0][0] - loss) <= 4e-6 * (std::fabs(loss) + 3), what + " loss");
    expect(std::fabs(sums[0][1] - penalty) <= 4e-6 * (penalty + 3), what + " z-loss");
    jpllm_linear_logsumexp_backward(JPLLM_FP32, n, v, d, h.data(), d, 1, w.data(), d, 1, targets.data(), lse.data(),
                                    dlse.data(), dtarget.data(), dh[2].data(), dw[2].data(), JPLLM_MATH_EXACT, 0, 1);
    // A token's logits' gradients sum to at most 2 + 2 z lse in absolute value, times the largest weight; a word's over
    // the tokens to at most as many times the largest hidden.
    double most_h = 0, most_w = 0, most_lse = 0;
    for (const float x : h) most_h = std::fmax(most_h, std::fabs(x));
    for (const float x : w) most_w = std::fmax(most_w, std::fabs(x));
    for (const float x : lse) most_lse = std::fmax(most_lse, std::fabs(x));
    const double size = inner_of(dtype) * (2 + 2 * z * most_lse), rounding = rounding_of(dtype);
    near(what + " dh", dh[0], {dh[2].begin(), dh[2].end()},
         [&](size_t i) { return 4e-5 + rounding * std::fabs(dh[2][i]) + size * most_w; });
    near(what + " dw", dw[0], {dw[2].begin(), dw[2].end()},
         [&](size_t) { return 4e-5 + size * most_h * static_cast<double>(n); });
}

// FP16 in chunks, bit for bit what the products give: the targets' logits, and the gradients where all logits are 0, so
// that a softmax over 4096 words is exact and the products' operands are known.
void test_chunks(int chunk) {
    const int64_t n = 70, v = 4096, d = 20;
    const std::string what = "loss in chunks of " + std::to_string(chunk);
    Stored h(JPLLM_FP16, random_floats(n * d, 21)), w(JPLLM_FP16, random_floats(v * d, 22));
    Stored zero(JPLLM_FP16, Floats(h.wide.size()));
    std::vector<int64_t> targets(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) targets[static_cast<size_t>(i)] = i * 37 % v;
    // c[n, .] = a[n, k] b[k, .], FP32.
    const auto product = [&](const jpllm_matrix& a, const jpllm_matrix& b, int64_t rows, int64_t k, int64_t cols) {
        Floats c(static_cast<size_t>(rows * cols));
        jpllm_gemm_args args{};
        args.m = rows, args.n = cols, args.k = k, args.a = a, args.b = b;
        args.c = {c.data(), cols, 1, JPLLM_FP32};
        args.math = JPLLM_MATH_FP16_CHUNK, args.math_chunk = chunk;
        expect(jpllm_gemm_with(&args, 2) == JPLLM_OK, what);
        return c;
    };
    Floats lse(targets.size()), logit(targets.size()), want(targets.size());
    expect(jpllm_linear_logsumexp(JPLLM_FP16, n, v, d, h.data(), d, 1, w.data(), d, 1, targets.data(), lse.data(),
                                  logit.data(), JPLLM_MATH_FP16_CHUNK, chunk, 3) == JPLLM_OK,
           what);
    const Floats logits = product({h.data(), d, 1, JPLLM_FP16}, {w.data(), 1, d, JPLLM_FP16}, n, d, v);
    for (size_t i = 0; i < want.size(); ++i)
        want[i] = logits[i * static_cast<size_t>(v) + static_cast<size_t>(targets[i])];
    same_bits(what + ", logits", logit, want);
    for (const bool of_hidden : {true, false}) {
        Stored &hidden = of_hidden ? zero : h, &weight = of_hidden ? w : zero;
        if (!of_hidden) zero = Stored(JPLLM_FP16, Floats(w.wide.size()));
        Stored dhidden(JPLLM_FP16, Floats(h.wide.size()));
        Floats dweight(w.wide.size());
        double sums[2];
        expect(jpllm_linear_cross_entropy(JPLLM_FP16, n, v, d, hidden.data(), d, 1, weight.data(), d, 1, targets.data(),
                                          0.0, sums, dhidden.data(), dweight.data(), JPLLM_MATH_FP16_CHUNK, chunk,
                                          3) == JPLLM_OK,
               what);
        int of_weight, of_rows, of_chunk;
        float most_h = 0, most_w = 0;
        for (const float x : hidden.wide) most_h = std::fmax(most_h, std::fabs(x));
        for (const float x : weight.wide) most_w = std::fmax(most_w, std::fabs(x));
        std::frexp(most_w, &of_weight), std::frexp(most_h, &of_rows), std::frexp(chunk - 1, &of_chunk);
        if (most_h == 0) of_rows = -14;
        const int power = 13 - std::max(of_hidden ? of_weight : of_rows + of_chunk, 0);
        Floats dlogits(static_cast<size_t>(n * v), static_cast<float>(std::ldexp(1, power) / static_cast<double>(v)));
        for (size_t i = 0; i < targets.size(); ++i) {
            dlogits[i * static_cast<size_t>(v) + static_cast<size_t>(targets[i])] -=
                static_cast<float>(std::ldexp(1, power));
        }
        Stored scaled(JPLLM_FP16, dlogits);
        Floats expected = of_hidden ? product({scaled.data(), v, 1, JPLLM_FP16}, {w.data(), d, 1, JPLLM_FP16}, n, v, d)
                                    : product({scaled.data(), 1, v, JPLLM_FP16}, {h.data(), d, 1, JPLLM_FP16}, v, n, d);
        for (float& x : expected) x = static_cast<float>(std::ldexp(x, -power));
        same_bits(what + ", a gradient", of_hidden ? dhidden.read() : dweight,
                  of_hidden ? Stored(JPLLM_FP16, expected).wide : expected);
    }
    expect(jpllm_linear_logsumexp(JPLLM_FP32, n, v, d, h.wide.data(), d, 1, w.wide.data(), d, 1, targets.data(),
                                  lse.data(), logit.data(), JPLLM_MATH_FP16_CHUNK, chunk, 3) == JPLLM_ERR_DTYPE,
           what + " takes FP16 alone");
}

void test_special() {
    Floats h(20, 1.0f), w(60, 1.0f), lse(1), logit(1);
    h[7] = NAN;
    const int64_t target = 1;
    jpllm_linear_logsumexp(JPLLM_FP32, 1, 3, 20, h.data(), 20, 1, w.data(), 20, 1, &target, lse.data(), logit.data(),
                           JPLLM_MATH_EXACT, 0, 1);
    expect(std::isnan(lse[0]), "linear_logsumexp lets NaN through");
}

}  // namespace

void test_loss() {
    for (const jpllm_dtype dtype : {JPLLM_FP32, JPLLM_BF16, JPLLM_FP16}) {
        test_logsumexp(5, 7, 9, dtype), test_logsumexp(9, 1100, 20, dtype), test_logsumexp(1030, 11, 6, dtype);
        test_cross_entropy(5, 7, 9, dtype), test_cross_entropy(33, 2100, 20, dtype);
    }
    test_chunks(16), test_chunks(128);
    test_special();
}
