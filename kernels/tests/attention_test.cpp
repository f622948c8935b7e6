// Attention against plain loops in double precision: forward, backward, masks, storage types, threads.
//
// Bounds. A score is a sum of D products, a probability has its absolute error times itself, an output is a mean of
// values under them: some 20 eps for unit-normal input. Gradients are sums over S or T of products of two such errors'
// terms: 100 eps of the largest sum. 16-bit storage adds a rounding of each result (2^-8 or 2^-11 of it), and backward
// reads a rounded output: its delta, a sum over D, is wrong by as much. Where BF16 is multiplied as such (avx512bf16),
// P and dS are rounded before the products with V, dO, Q and K: 2^-8 of the sum of the absolute terms.
#include <algorithm>
#include <functional>

#include "support.h"

namespace {

struct Shape {
    int64_t batch, queries, keys, heads, kv_heads, dim;
    bool causal;
    int64_t window;
    int documents;      // 0: one; 1: runs of keys; 2: scattered
    double factor = 1;  // in the scale
};

void test_shape(const Shape& s, jpllm_dtype dtype) {
    const std::string what = "attention B" + std::to_string(s.batch) + " S" + std::to_string(s.queries) + " T" +
                             std::to_string(s.keys) + " H" + std::to_string(s.heads) + " K" +
                             std::to_string(s.kv_heads) + " D" + std::to_string(s.dim) + (s.causal ? " causal" : "") +
                             " window " + std::to_string(s.window) + " documents " + std::to_string(s.documents) +
                             " dtype " + std::to_string(dtype) + " factor " + std::to_string(s.factor);
    const int64_t nq = s.batch * s.queries * s.heads * s.dim, nk = s.batch * s.keys * s.kv_heads * s.dim;
    Stored q(dtype, random_floats(nq, 1)), k(dtype, random_floats(nk, 2)), v(dtype, random_floats(nk, 3));
    Stored dout(dtype, random_floats(nq, 4));
    std::vector<int64_t> query_ids, key_ids;
    for (int64_t b = 0; b < s.batch && s.documents != 0; ++b) {
        for (int64_t t = 0; t < s.keys; ++t) key_ids.push_back(s.documents == 1 ? t / 37 - b : t / 5 % 3);
        for (int64_t i = 0; i < s.queries; ++i) {
            query_ids.push_back(i % 31 == 30 ? 1000
                                             : key_ids[static_cast<size_t>(b * s.keys + s.keys - s.queries + i)]);
        }
    }
    const double scale = s.factor / std::sqrt(static_cast<double>(s.dim));
    const jpllm_attention_shape shape = {s.batch,
                                         s.queries,
                                         s.keys,
                                         s.heads,
                                         s.kv_heads,
                                         s.dim,
                                         scale,
                                         s.causal,
                                         s.window,
                                         s.documents != 0 ? query_ids.data() : nullptr,
                                         s.documents != 0 ? key_ids.data() : nullptr};
    const auto query_heads = [&](Stored& x) {
        return jpllm_heads{x.data(), s.queries * s.heads * s.dim, s.heads * s.dim, s.dim};
    };
    const auto key_heads = [&](Stored& x) {
        return jpllm_heads{x.data(), s.keys * s.kv_heads * s.dim, s.kv_heads * s.dim, s.dim};
    };
    Floats first[5];
    Floats lse(static_cast<size_t>(s.batch * s.heads * s.queries));
    for (const int threads : {1, 3}) {
        Stored out(dtype, Floats(static_cast<size_t>(nq), 7)), dq = out;
        Stored dk(dtype, Floats(static_cast<size_t>(nk), 7)), dv = dk;
        expect(jpllm_attention(dtype, &shape, query_heads(q), key_heads(k), key_heads(v), query_heads(out), lse.data(),
                               threads) == JPLLM_OK,
               what);
        expect(jpllm_attention_backward(dtype, &shape, query_heads(q), key_heads(k), key_heads(v), query_heads(out),
                                        lse.data(), query_heads(dout), query_heads(dq), key_heads(dk), key_heads(dv),
                                        threads) == JPLLM_OK,
               what);
        const Floats* results[5] = {&out.read(), &lse, &dq.read(), &dk.read(), &dv.read()};
        for (int i = 0; i < 5; ++i) {
            if (threads == 1) {
                first[i] = *results[i];
            } else {
                same_bits(what, first[i], *results[i]);
            }
        }
    }
    const auto at = [&](int64_t b, int64_t row, int64_t rows, int64_t h, int64_t heads) {
        return static_cast<size_t>(((b * rows + row) * heads + h) * s.dim);
    };
    const size_t width = static_cast<size_t>(s.dim), keys = static_cast<size_t>(s.keys);
    std::vector<double> want[5] = {std::vector<double>(q.wide.size()), std::vector<double>(lse.size()),
                                   std::vector<double>(q.wide.size()), std::vector<double>(k.wide.size()),
                                   std::vector<double>(k.wide.size())};
    std::vector<double> size[5] = {want[0], want[1], want[2], want[3], want[4]};  // of absolute terms
    double largest = 1;
    for (int64_t b = 0; b < s.batch; ++b) {
        for (int64_t h = 0; h < s.heads; ++h) {
            for (int64_t i = 0; i < s.queries; ++i) {
                const int64_t position = s.keys - s.queries + i, kv = h / (s.heads / s.kv_heads);
                const size_t qi = at(b, i, s.queries, h, s.heads);
                const auto sees = [&](int64_t t) {
                    return (!s.causal || t <= position) &&
                           (s.window == 0 || (t - position < s.window && position - t < s.window)) &&
                           (s.documents == 0 || query_ids[static_cast<size_t>(b * s.queries + i)] ==
                                                    key_ids[static_cast<size_t>(b * s.keys + t)]);
                };
                std::vector<double> p(keys), dp(keys);
                double peak = -INFINITY, total = 0, delta = 0;
                for (size_t t = 0; t < keys; ++t) {
                    if (!sees(static_cast<int64_t>(t))) continue;
                    const size_t ki = at(b, static_cast<int64_t>(t), s.keys, kv, s.kv_heads);
                    for (size_t d = 0; d < width; ++d) {
                        p[t] += scale * static_cast<double>(q.wide[qi + d]) * k.wide[ki + d];
                        dp[t] += static_cast<double>(dout.wide[qi + d]) * v.wide[ki + d];
                    }
                    peak = std::max(peak, p[t]);
                }
                for (size_t t = 0; t < keys; ++t) {
                    p[t] = sees(static_cast<int64_t>(t)) ? std::exp(p[t] - peak) : 0, total += p[t];
                }
                want[1][static_cast<size_t>((b * s.heads + h) * s.queries + i)] = peak + std::log(total);
                for (size_t t = 0; t < keys; ++t) p[t] = total == 0 ? 0 : p[t] / total, delta += p[t] * dp[t];
                for (size_t t = 0; t < keys; ++t) {
                    const size_t ki = at(b, static_cast<int64_t>(t), s.keys, kv, s.kv_heads);
                    const double ds = scale * p[t] * (dp[t] - delta);
                    for (size_t d = 0; d < width; ++d) {
                        size[0][qi + d] += p[t] * std::fabs(v.wide[ki + d]);
                        size[2][qi + d] += std::fabs(ds * k.wide[ki + d]);
                        size[3][ki + d] += std::fabs(ds * q.wide[qi + d]);
                        size[4][ki + d] += p[t] * std::fabs(dout.wide[qi + d]);
                        want[0][qi + d] += p[t] * v.wide[ki + d], want[2][qi + d] += ds * k.wide[ki + d];
                        want[3][ki + d] += ds * q.wide[qi + d], want[4][ki + d] += p[t] * dout.wide[qi + d];
                    }
                }
            }
        }
    }
    for (int i = 2; i < 5; ++i) {
        for (const double x : want[i]) largest = std::max(largest, std::fabs(x));
    }
    const double rounding = dtype == JPLLM_FP32 ? 0 : dtype == JPLLM_BF16 ? 1.0 / 256 : 1.0 / 2048;
    const double inner = dtype == JPLLM_BF16 && isa == "avx512bf16" ? rounding : 0;
    near(what + " out", first[0], want[0],
         [&](size_t i) { return 30 * kEps * 4 + rounding * std::fabs(want[0][i]) + inner * size[0][i]; });
    for (size_t i = 0; i < lse.size(); ++i) {
        if (std::isinf(want[1][i])) expect(first[1][i] == want[1][i], what + " lse of a query without keys");
        if (std::isinf(want[1][i])) first[1][i] = 0, want[1][i] = 0;
    }
    near(what + " lse", first[1], want[1], [&](size_t i) { return 30 * kEps * (1 + std::fabs(want[1][i])); });
    const char* names[5] = {"", "", " dq", " dk", " dv"};
    for (int g = 2; g < 5; ++g) {
        near(what + names[g], first[g], want[g], [&](size_t i) {
            return (100 * kEps + rounding) * largest + rounding * std::fabs(want[g][i]) + inner * size[g][i];
        });
    }
}

}  // namespace

void test_attention() {
    const int64_t shapes[][6] = {{1, 5, 5, 1, 1, 8},      {2, 1, 1, 2, 1, 64},     {2, 1, 130, 4, 2, 64},
                                 {1, 100, 100, 2, 2, 64}, {1, 130, 200, 2, 1, 40}, {2, 33, 97, 6, 2, 80},
                                 {1, 40, 40, 3, 3, 1},    {1, 50, 60, 2, 1, 256},  {2, 7, 7, 8, 2, 12},
                                 {1, 0, 3, 2, 1, 8}};
    for (const auto& x : shapes) {
        const bool large = x[1] * x[2] * x[5] > 100000;
        for (const bool causal : {true, false}) {
            for (const int64_t window : {0, 30}) {
                for (const int documents : {0, 1, 2}) {
                    if (large && documents != (window == 0 ? 0 : causal ? 1 : 2)) continue;
                    test_shape({x[0], x[1], x[2], x[3], x[4], x[5], causal, window, documents}, JPLLM_FP32);
                }
            }
        }
    }
    for (const jpllm_dtype dtype : {JPLLM_BF16, JPLLM_FP16}) {
        test_shape({2, 33, 97, 4, 2, 40, true, 0, 0}, dtype);
        test_shape({1, 1, 61, 2, 1, 20, true, 0, 0}, dtype);
    }
    for (const double factor : {-1.0, 0.0, 3.0}) test_shape({1, 20, 110, 2, 1, 16, true, 0, 0, factor}, JPLLM_BF16);
    for (const auto& x : shapes) {
        for (const int documents : {0, 2}) {
            test_shape({x[0], x[1], x[2], x[3], x[4], x[5] - (x[5] > 1 && documents == 0), documents == 0,
                        30 * documents, documents},
                       JPLLM_BF16);
        }
    }
}
