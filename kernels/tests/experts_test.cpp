// Mixture of experts against plain loops: routing, the order by expert, sums of rows, many products at once.
#include "support.h"

namespace {

using Integers = std::vector<int64_t>;

void test_route(jpllm_dtype type, bool sigmoid, bool normalize) {
    const std::string what =
        "route type " + std::to_string(type) + (sigmoid ? " sigmoid" : " softmax") + (normalize ? " normalized" : "");
    const int64_t n = 9, e = 21, k = 3;
    Stored logits(type, random_floats(n * e, 1)), dlogits(type, Floats(logits.wide.size(), 7.0f));
    const Floats dweights = random_floats(n * k, 2);
    Integers experts(static_cast<size_t>(n * k));
    Floats weights(experts.size());
    expect(jpllm_route(type, n, e, k, logits.data(), e, nullptr, sigmoid, normalize, experts.data(), weights.data(),
                       3) == JPLLM_OK &&
               jpllm_route_backward(type, n, e, k, logits.data(), e, sigmoid, normalize, experts.data(), weights.data(),
                                    dweights.data(), dlogits.data(), e, 3) == JPLLM_OK,
           what);
    std::vector<double> want_weights(weights.size()), want_grad(logits.wide.size());
    bool in_order = true;
    for (int64_t i = 0; i < n; ++i) {
        const auto logit = [&](int64_t j) { return static_cast<double>(logits.wide[static_cast<size_t>(i * e + j)]); };
        const auto score = [&](int64_t j) { return sigmoid ? 1 / (1 + std::exp(-logit(j))) : std::exp(logit(j)); };
        const int64_t* chosen = experts.data() + i * k;
        double total = 0, kept = 0, dot = 0;
        for (int64_t j = 0; j < e; ++j) {
            int64_t before = 0;  // how many come before j
            for (int64_t other = 0; other < e; ++other) {
                before += logit(other) > logit(j) || (logit(other) == logit(j) && other < j) ? 1 : 0;
            }
            if (before < k) in_order = in_order && chosen[before] == j, kept += score(j);
            total += score(j);
        }
        const double by = normalize ? kept : sigmoid ? 1 : total;
        for (int64_t j = 0; j < k; ++j) {
            const size_t at = static_cast<size_t>(i * k + j);
            want_weights[at] = score(chosen[j]) / by;
            dot += want_weights[at] * dweights[at];
        }
        const auto grad = [&](int64_t j) -> double& { return want_grad[static_cast<size_t>(i * e + j)]; };
        for (int64_t j = 0; j < e && !normalize && !sigmoid; ++j) grad(j) = -score(j) / total * dot;
        for (int64_t j = 0; j < k; ++j) {
            const size_t at = static_cast<size_t>(i * k + j);
            const double slope = sigmoid ? score(chosen[j]) * (1 - score(chosen[j])) / by : want_weights[at];
            grad(chosen[j]) += slope * (dweights[at] - (normalize ? dot : 0));
        }
    }
    expect(in_order, what + ": the largest first, of equal ones the lower number");
    near(what, weights, want_weights, [&](size_t i) { return 2e-6 * want_weights[i]; });
    near(what + " backward", dlogits.read(), want_grad, [&](size_t i) { return dlogits.bound(want_grad[i]); });
}

void test_order() {
    const Integers experts = {2, 0, 3, 2, 0, 2, 2, 3};
    Integers token(8), position(8), sizes(5);
    expect(jpllm_sort_by_expert(4, 2, 5, experts.data(), token.data(), position.data(), sizes.data()) == JPLLM_OK,
           "sort_by_expert");
    expect(token == Integers({0, 2, 0, 1, 2, 3, 1, 3}) && position == Integers({2, 0, 6, 3, 1, 4, 5, 7}) &&
               sizes == Integers({2, 0, 4, 2, 0}),
           "the stable order by expert");
    expect(
        jpllm_sort_by_expert(4, 2, 3, experts.data(), token.data(), position.data(), sizes.data()) == JPLLM_ERR_INDEX,
        "an expert that is none");
}

void test_combine(jpllm_dtype type, int64_t past) {
    const std::string what = "combine type " + std::to_string(type);
    const int64_t n = 11, k = 3, d = 77, m = n * k;
    Stored x(type, random_floats(m * d, 1)), dy(type, random_floats(n * d, 2));
    Stored y(type, Floats(dy.wide.size())), dx(type, Floats(x.wide.size()));
    const Floats weights = random_floats(m, 3);
    Floats dweights(weights.size());
    Integers position(weights.size());
    for (int64_t i = 0; i < m; ++i) position[static_cast<size_t>(i)] = i * 7 % m;
    jpllm_set_past_caches(past);
    expect(jpllm_combine(type, n, k, d, position.data(), weights.data(), x.data(), d, y.data(), d, 2) == JPLLM_OK &&
               jpllm_combine_backward(type, n, k, d, position.data(), weights.data(), x.data(), d, dy.data(), d,
                                      dx.data(), d, dweights.data(), 2) == JPLLM_OK,
           what);
    jpllm_set_past_caches(-1);
    std::vector<double> want_y(y.wide.size()), want_dx(x.wide.size()), want_dw(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
        for (size_t j = 0; j < 77; ++j) {
            const size_t row = static_cast<size_t>(position[i]) * 77 + j, token = i / 3 * 77 + j;
            want_y[token] += static_cast<double>(weights[i]) * x.wide[row];
            want_dx[row] = static_cast<double>(weights[i]) * dy.wide[token];
            want_dw[i] += static_cast<double>(x.wide[row]) * dy.wide[token];
        }
    }
    near(what, y.read(), want_y, [&](size_t i) { return y.bound(want_y[i]); });
    near(what + " dx", dx.read(), want_dx, [&](size_t i) { return dx.bound(want_dx[i]); });
    near(what + " dweights", dweights, want_dw, [&](size_t i) { return 1e-5 * (std::fabs(want_dw[i]) + 1); });
}

void test_batch(jpllm_dtype type) {
    const std::string what = "gemm_batch type " + std::to_string(type);
    const int64_t sizes[] = {130, 0, 1, 40, 7}, k = 60, n = 50;
    Stored a(type, random_floats(178 * k, 1)), b(type, random_floats(5 * k * n, 2));
    Stored one(type, Floats(178 * 50, 7.0f)), many(type, one.wide), three(type, one.wide);
    const auto element = [&](Stored& x, int64_t i) {
        return static_cast<void*>(static_cast<char*>(x.data()) + i * (type == JPLLM_FP32 ? 4 : 2));
    };
    for (Stored* out : {&one, &many, &three}) {
        jpllm_gemm_args products[5];
        memset(products, 0, sizeof products);
        int64_t start = 0;
        for (int64_t g = 0; g < 5; ++g) {
            jpllm_gemm_args& p = products[g];
            p.m = sizes[g], p.n = n, p.k = k;
            p.a = {element(a, start * k), k, 1, type}, p.b = {element(b, g * k * n), n, 1, type};
            p.c = {element(*out, start * n), n, 1, type};
            start += sizes[g];
            if (out == &one) expect(jpllm_gemm_with(&p, 1) == JPLLM_OK, what);
        }
        if (out != &one) expect(jpllm_gemm_batch(5, products, out == &three ? 3 : 1) == JPLLM_OK, what);
    }
    same_bits(what + " as single products", one.read(), many.read());
    same_bits(what, many.wide, three.read());
}

}  // namespace

void test_experts() {
    for (const jpllm_dtype type : {JPLLM_FP32, JPLLM_BF16, JPLLM_FP16}) {
        for (const bool sigmoid : {false, true}) test_route(type, sigmoid, false), test_route(type, sigmoid, true);
        test_combine(type, 0), test_combine(type, -1);
        test_batch(type);
    }
    test_order();
}
