// Fused operations against plain loops in double precision.
#include "support.h"

namespace {

void test_norm(int64_t m, int64_t d) {
    const std::string what = "rms_norm " + std::to_string(m) + "x" + std::to_string(d);
    const int64_t pitch = d + 3;
    const Floats x = random_floats(m * pitch, 5), w = random_floats(d, 6), dy = random_floats(m * d, 7);
    const double eps = 1e-5;
    Floats y[2], rstd[2], dx[2], dw[2], columns[2];
    for (int run = 0; run < 2; ++run) {
        y[run].resize(static_cast<size_t>(m * d)), rstd[run].resize(static_cast<size_t>(m));
        dx[run].resize(static_cast<size_t>(m * d)), dw[run].resize(static_cast<size_t>(d));
        columns[run].resize(static_cast<size_t>(d));
        const int threads = run == 0 ? 1 : 3;
        expect(jpllm_rms_norm(JPLLM_FP32, m, d, x.data(), pitch, nullptr, 0, w.data(), eps, nullptr, 0, y[run].data(),
                              d, rstd[run].data(), threads) == JPLLM_OK,
               what);
        expect(jpllm_norm_backward(JPLLM_FP32, m, d, dy.data(), d, x.data(), pitch, nullptr, 0, w.data(), nullptr,
                                   rstd[run].data(), dx[run].data(), d, dw[run].data(), nullptr, threads) == JPLLM_OK,
               what);
        expect(jpllm_column_sum(JPLLM_FP32, m, d, dy.data(), d, columns[run].data(), threads) == JPLLM_OK, what);
    }
    same_bits(what + " y", y[0], y[1]), same_bits(what + " dx", dx[0], dx[1]), same_bits(what + " dw", dw[0], dw[1]);
    same_bits(what + " columns", columns[0], columns[1]);
    std::vector<double> want_y(y[0].size()), want_dx(y[0].size()), want_dw(dw[0].size()), want_columns(dw[0].size());
    for (int64_t i = 0; i < m; ++i) {
        double squares = 0, dot = 0;
        const auto at = [&](int64_t j) { return static_cast<size_t>(i * d + j); };
        const auto in = [&](int64_t j) { return static_cast<double>(x[static_cast<size_t>(i * pitch + j)]); };
        for (int64_t j = 0; j < d; ++j) squares += in(j)*in(j);
        const double r = 1 / std::sqrt(squares / static_cast<double>(d) + eps);
        for (int64_t j = 0; j < d; ++j) dot += static_cast<double>(w[static_cast<size_t>(j)]) * dy[at(j)] * in(j);
        for (int64_t j = 0; j < d; ++j) {
            const double weight = w[static_cast<size_t>(j)];
            want_y[at(j)] = in(j)*r * weight;
            want_dx[at(j)] = r * weight * dy[at(j)] - in(j)*r * r * r / static_cast<double>(d) * dot;
            want_dw[static_cast<size_t>(j)] += dy[at(j)] * in(j)*r;
            want_columns[static_cast<size_t>(j)] += dy[at(j)];
        }
    }
    const double rows = static_cast<double>(m);
    near(what + " y", y[0], want_y, [&](size_t i) { return 1e-6 * (std::fabs(want_y[i]) + 1e-3); });
    near(what + " dx", dx[0], want_dx, [&](size_t i) { return 4e-6 * (std::fabs(want_dx[i]) + 3); });
    near(what + " dw", dw[0], want_dw, [&](size_t) { return 4 * kEps * (rows + 8) * 2; });
    near(what + " columns", columns[0], want_columns, [&](size_t) { return 4 * kEps * (rows + 8) * 2; });
}

void test_swiglu(int64_t m, int64_t n) {
    const std::string what = "swiglu " + std::to_string(m) + "x" + std::to_string(n);
    Floats gate = random_floats(m * n, 8), up = random_floats(m * n, 9), dy = random_floats(m * n, 10);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] *= (i % 7 == 0) ? 60.0f : 4.0f;  // into both saturated ends
    Floats y(gate.size()), dgate(gate.size()), dup(gate.size());
    expect(jpllm_swiglu(JPLLM_FP32, m, n, gate.data(), n, up.data(), n, y.data(), n, 3) == JPLLM_OK, what);
    expect(jpllm_swiglu_backward(JPLLM_FP32, m, n, dy.data(), n, gate.data(), n, up.data(), n, dgate.data(), n,
                                 dup.data(), n, 3) == JPLLM_OK,
           what);
    std::vector<double> want_y(y.size()), want_dgate(y.size()), want_dup(y.size());
    for (size_t i = 0; i < y.size(); ++i) {
        const double g = gate[i], s = 1 / (1 + std::exp(-g));
        want_y[i] = g * s * up[i];
        want_dgate[i] = dy[i] * static_cast<double>(up[i]) * s * (1 + g * (1 - s));
        want_dup[i] = dy[i] * g * s;
    }
    const auto bound = [](const std::vector<double>& want) {
        return [&want](size_t i) { return 1.5e-6 * (std::fabs(want[i]) + 0.5); };
    };
    near(what + " y", y, want_y, bound(want_y));
    near(what + " dgate", dgate, want_dgate, bound(want_dgate));
    near(what + " dup", dup, want_dup, bound(want_dup));
}

void test_adamw(int64_t n) {
    const std::string what = "adamw_step " + std::to_string(n);
    Floats p = random_floats(n, 15), m = random_floats(n, 16), v = random_floats(n, 17);
    const Floats g = random_floats(n, 18);
    for (size_t i = 0; i < v.size(); ++i) v[i] = i % 5 == 0 ? 0.0f : std::fabs(v[i]);
    const double lr = 1e-2, b1 = 0.9, b2 = 0.95, eps = 1e-8, decay = 0.1, scale = 0.5;
    std::vector<double> want_p(p.size()), want_m(p.size()), want_v(p.size());
    for (size_t i = 0; i < p.size(); ++i) {
        const double grad = g[i] * scale;
        want_m[i] = b1 * m[i] + (1 - b1) * grad;
        want_v[i] = b2 * v[i] + (1 - b2) * grad * grad;
        const double root = std::sqrt(want_v[i] / (1 - std::pow(b2, 3)));
        want_p[i] = p[i] * (1 - lr * decay) - lr * (want_m[i] / (1 - std::pow(b1, 3))) / (root + eps);
    }
    std::vector<uint16_t> model(p.size());
    expect(jpllm_adamw_step(JPLLM_FP32, n, p.data(), g.data(), m.data(), v.data(), model.data(), lr, b1, b2, eps, decay,
                            3, scale, 3) == JPLLM_OK,
           what);
    near(what + " m", m, want_m, [&](size_t i) { return 4 * kEps * (std::fabs(want_m[i]) + 1); });
    near(what + " v", v, want_v, [&](size_t i) { return 4 * kEps * (std::fabs(want_v[i]) + 1); });
    near(what + " p", p, want_p, [&](size_t i) { return 4 * kEps * (std::fabs(want_p[i]) + 1); });
    for (size_t i = 0; i < p.size(); ++i) {
        uint32_t bits;
        memcpy(&bits, &p[i], sizeof bits);
        const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        if (model[i] != rounded) {
            expect(false, what + ": the bfloat16 copy is not the nearest");
            break;
        }
    }
}

// Infinities, NaN and zeroes must come out as they should.
void test_special() {
    const float inf = INFINITY, nan = NAN;
    const Floats gate = {inf, -inf, nan, 0.0f, -0.0f, 100.0f, -100.0f, -90.0f, 88.0f, 3e38f, -3e38f};
    const Floats up(gate.size(), 1.0f);
    Floats y(gate.size());
    const int64_t n = static_cast<int64_t>(gate.size());
    jpllm_swiglu(JPLLM_FP32, 1, n, gate.data(), n, up.data(), n, y.data(), n, 1);
    expect(y[0] == inf && std::isnan(y[2]) && y[3] == 0 && y[4] == 0 && y[5] == 100.0f && std::fabs(y[6]) < 1e-35f &&
               y[8] == 88.0f && y[9] == 3e38f && y[10] == 0,
           "swiglu at infinities, NaN and zeroes");
    Floats p = {1, 2, nan}, m(3), v(3), g = {nan, inf, 0};
    std::vector<uint16_t> model(3);
    jpllm_adamw_step(JPLLM_FP32, 3, p.data(), g.data(), m.data(), v.data(), model.data(), 0.1, 0.9, 0.99, 1e-8, 0, 1, 1,
                     1);
    expect(std::isnan(p[0]) && std::isnan(p[1]) && std::isnan(p[2]), "adamw_step lets NaN through");
    expect((model[0] & 0x7fffu) > 0x7f80u && (model[2] & 0x7fffu) > 0x7f80u, "a NaN in bfloat16 is a NaN");
}

}  // namespace

void test_fused() {
    for (const int64_t d : {1, 16, 63, 130}) test_norm(d == 63 ? 70 : 5, d);
    test_swiglu(3, 37), test_swiglu(1, 256);
    for (const int64_t n : {1, 16, 77}) test_adamw(n);
    test_special();
}
