// What an optimizer does with flat buffers, against plain loops in double precision.
#include "support.h"

namespace {

void test_adamw(int64_t n, jpllm_dtype grad_type, jpllm_dtype model_type) {
    const std::string what = "adamw_step " + std::to_string(n) + ", types " + std::to_string(grad_type) + " and " +
                             std::to_string(model_type);
    Floats p = random_floats(n, 15), m = random_floats(n, 16), v = random_floats(n, 17);
    Stored g(grad_type, random_floats(n, 18)), model(model_type, Floats(p.size(), 7.0f));
    for (size_t i = 0; i < v.size(); ++i) v[i] = i % 5 == 0 ? 0.0f : std::fabs(v[i]);
    const double lr = 1e-2, b1 = 0.9, b2 = 0.95, eps = 1e-8, decay = 0.1, scale = 0.5;
    std::vector<double> want_p(p.size()), want_m(p.size()), want_v(p.size());
    for (size_t i = 0; i < p.size(); ++i) {
        const double grad = g.wide[i] * scale;
        want_m[i] = b1 * m[i] + (1 - b1) * grad;
        want_v[i] = b2 * v[i] + (1 - b2) * grad * grad;
        const double root = std::sqrt(want_v[i] / (1 - std::pow(b2, 3)));
        want_p[i] = p[i] * (1 - lr * decay) - lr * (want_m[i] / (1 - std::pow(b1, 3))) / (root + eps);
    }
    expect(jpllm_adamw_step(n, p.data(), grad_type, g.data(), m.data(), v.data(), model_type, model.data(), lr, b1, b2,
                            eps, decay, 3, scale, 3) == JPLLM_OK,
           what);
    const auto bound = [](const std::vector<double>& want) {
        return [&want](size_t i) { return 4 * kEps * (std::fabs(want[i]) + 1); };
    };
    near(what + " m", m, want_m, bound(want_m));
    near(what + " v", v, want_v, bound(want_v));
    near(what + " p", p, want_p, bound(want_p));
    Stored rounded(model_type, p);
    same_bits(what + ": the model's copy is the weight rounded", model.read(), rounded.read());
}

void test_adamw_special() {
    const float inf = INFINITY, nan = NAN;
    Floats p = {1, 2, nan}, m(3), v(3), g = {nan, inf, 0};
    std::vector<uint16_t> model(3);
    jpllm_adamw_step(3, p.data(), JPLLM_FP32, g.data(), m.data(), v.data(), JPLLM_BF16, model.data(), 0.1, 0.9, 0.99,
                     1e-8, 0, 1, 1, 1);
    expect(std::isnan(p[0]) && std::isnan(p[1]) && std::isnan(p[2]), "adamw_step lets NaN through");
    expect((model[0] & 0x7fffu) > 0x7f80u && (model[2] & 0x7fffu) > 0x7f80u, "a NaN in bfloat16 is a NaN");
}

double squares(Stored& x, int threads) {
    double sum = -1;
    expect(jpllm_sum_of_squares(x.dtype, static_cast<int64_t>(x.wide.size()), x.data(), &sum, threads) == JPLLM_OK,
           "sum_of_squares");
    return sum;
}

void test_squares(int64_t n, jpllm_dtype type) {
    const std::string what = "sum_of_squares " + std::to_string(n) + " of type " + std::to_string(type);
    Stored x(type, random_floats(n, 19));
    double want = 0;
    for (const float element : x.wide) want += static_cast<double>(element) * element;
    const double one = squares(x, 1), three = squares(x, 3);
    expect(std::fabs(one - want) <= 1e-12 * want, what);
    expect(one == three, what + ": one thread and three give different bits");
}

void test_squares_special() {
    Stored large(JPLLM_FP32, {3e38f, -3e38f, 1e-30f}), small(JPLLM_FP32, Floats(40000, 1e-30f));
    expect(std::fabs(squares(large, 1) / 1.8e77 - 1) < 1e-6, "sum_of_squares beyond what FP32 holds");
    expect(std::fabs(squares(small, 2) / 4e-56 - 1) < 1e-6, "sum_of_squares below what FP32 holds");
    for (const float fault : {INFINITY, -INFINITY, NAN}) {
        Stored x(JPLLM_FP32, Floats(40000, 1.0f));
        x.wide[39997] = fault;
        expect(!std::isfinite(squares(x, 2)), "sum_of_squares tells of what is not finite");
    }
}

}  // namespace

void test_optimizer() {
    const jpllm_dtype types[] = {JPLLM_FP32, JPLLM_BF16, JPLLM_FP16};
    for (const jpllm_dtype type : types) {
        for (const jpllm_dtype model : types) test_adamw(77, type, model);
        for (const int64_t n : {0, 1, 16, 77, 3 * 16384 + 5}) test_squares(n, type);
    }
    for (const int64_t n : {1, 16}) test_adamw(n, JPLLM_FP32, JPLLM_BF16);
    test_adamw_special(), test_squares_special();
}
