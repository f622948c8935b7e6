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
}

// Every type, near and past the caches: norms of sums, layer norm, SwiGLU, softmax, rotary in place.
void test_storage(jpllm_dtype type, int64_t past) {
    const std::string what = "storage type " + std::to_string(type) + (past == 0 ? " past the caches" : "");
    const int64_t m = 7, d = 205, size = m * d;
    const auto made = [&](int64_t n, uint64_t seed) { return Stored(type, random_floats(n, seed)); };
    Stored x = made(size, 1), u = made(size, 2), dy = made(size, 3), dsum = made(size, 4), w = made(d, 5),
           b = made(d, 6);
    Stored sum = made(size, 7), y = made(size, 7), dx = made(size, 7), dw = made(d, 7), db = made(d, 7);
    Floats rstd(m), mean(m);
    jpllm_set_past_caches(past);
    for (const bool centred : {false, true}) {
        const jpllm_status forward = centred ? jpllm_layer_norm(type, m, d, x.data(), d, w.data(), b.data(), 1e-5,
                                                                y.data(), d, mean.data(), rstd.data(), 2)
                                             : jpllm_rms_norm(type, m, d, x.data(), d, u.data(), d, w.data(), 1e-5,
                                                              sum.data(), d, y.data(), d, rstd.data(), 2);
        Stored& h = centred ? x : sum;
        const jpllm_status backward = jpllm_norm_backward(
            type, m, d, dy.data(), d, h.data(), d, centred ? nullptr : dsum.data(), d, w.data(),
            centred ? mean.data() : nullptr, rstd.data(), dx.data(), d, dw.data(), centred ? db.data() : nullptr, 2);
        expect(forward == JPLLM_OK && backward == JPLLM_OK, what);
        h.read();
        std::vector<double> want_y(x.wide.size()), want_dx(x.wide.size()), want_dw(w.wide.size()),
            want_db(w.wide.size());
        for (int64_t i = 0; i < m; ++i) {
            const auto at = [&](int64_t j) { return static_cast<size_t>(i * d + j); };
            const auto weight = [&](int64_t j) { return static_cast<double>(w.wide[static_cast<size_t>(j)]); };
            double middle = 0, squares = 0, dot = 0, total = 0;
            for (int64_t j = 0; j < d && centred; ++j) middle += h.wide[at(j)] / static_cast<double>(d);
            for (int64_t j = 0; j < d; ++j) squares += std::pow(h.wide[at(j)] - middle, 2) / static_cast<double>(d);
            const double r = 1 / std::sqrt(squares + 1e-5);
            for (int64_t j = 0; j < d; ++j) {
                const double g = weight(j) * dy.wide[at(j)] / static_cast<double>(d);
                dot += g * (h.wide[at(j)] - middle) * r, total += centred ? g : 0;
            }
            for (int64_t j = 0; j < d; ++j) {
                const double xhat = (h.wide[at(j)] - middle) * r, g = weight(j) * dy.wide[at(j)];
                want_y[at(j)] = xhat * weight(j) + (centred ? b.wide[static_cast<size_t>(j)] : 0);
                want_dx[at(j)] = r * (g - xhat * dot - total) + (centred ? 0 : dsum.wide[at(j)]);
                want_dw[static_cast<size_t>(j)] += dy.wide[at(j)] * xhat,
                    want_db[static_cast<size_t>(j)] += dy.wide[at(j)];
            }
        }
        const auto same = [&](const char* name, Stored& got, const std::vector<double>& want) {
            near(what + (centred ? " layer norm " : " rms norm ") + name, got.read(), want,
                 [&](size_t i) { return got.bound(want[i]); });
        };
        same("y", y, want_y), same("dx", dx, want_dx), same("dw", dw, want_dw);
        if (centred) same("db", db, want_db);
    }
    expect(jpllm_softmax(type, m, d, x.data(), d, y.data(), d, 2) == JPLLM_OK &&
               jpllm_swiglu(type, m, d, x.data(), d, u.data(), d, dx.data(), d, 2) == JPLLM_OK,
           what);
    std::vector<double> want_softmax(x.wide.size()), want_swiglu(x.wide.size());
    for (size_t i = 0; i < x.wide.size(); ++i) {
        const size_t first = i / static_cast<size_t>(d) * static_cast<size_t>(d);
        double total = 0;
        for (size_t j = first; j < first + static_cast<size_t>(d); ++j) total += std::exp(x.wide[j]);
        want_softmax[i] = std::exp(x.wide[i]) / total;
        want_swiglu[i] = x.wide[i] / (1 + std::exp(-x.wide[i])) * u.wide[i];
    }
    near(what + " softmax", y.read(), want_softmax, [&](size_t i) { return y.bound(want_softmax[i]); });
    near(what + " swiglu", dx.read(), want_swiglu, [&](size_t i) { return dx.bound(want_swiglu[i]); });

    // 1 batch, 3 tokens, 2 query heads and 1 key head of 64: turned, and turned back in place.
    const Floats angles = random_floats(3 * 32, 8);
    Floats table(3 * 64);
    for (size_t i = 0; i < angles.size(); ++i) {
        table[i / 32 * 64 + i % 32] = std::cos(angles[i]), table[i / 32 * 64 + 32 + i % 32] = std::sin(angles[i]);
    }
    Stored q = made(3 * 128, 9), k = made(3 * 64, 10), turned = made(3 * 128, 11);
    const jpllm_rotary_heads of_q = {2, q.data(), {0, 128, 64}, turned.data(), {0, 128, 64}};
    const jpllm_rotary_heads back = {2, turned.data(), {0, 128, 64}, turned.data(), {0, 128, 64}};
    const jpllm_rotary_heads of_k = {1, k.data(), {0, 64, 64}, k.data(), {0, 64, 64}};
    const int64_t stride[2] = {0, 64};
    expect(jpllm_rotary(type, 1, 3, 64, &of_q, &of_k, table.data(), stride, 0, 2) == JPLLM_OK, what);
    turned.read();
    std::vector<double> want_turned(turned.wide.size());
    for (size_t i = 0; i < want_turned.size(); ++i) {
        const size_t token = i / 128, channel = i % 32, other = i % 64 < 32 ? i + 32 : i - 32;
        const double c = table[token * 64 + channel], s = table[token * 64 + 32 + channel];
        want_turned[i] = q.wide[i] * c + (i % 64 < 32 ? -s : s) * q.wide[other];
    }
    near(what + " rotary", turned.wide, want_turned, [&](size_t i) { return turned.bound(want_turned[i]); });
    expect(jpllm_rotary(type, 1, 3, 64, &back, &of_k, table.data(), stride, 1, 2) == JPLLM_OK, what);
    std::vector<double> want_q(q.wide.begin(), q.wide.end());
    near(what + " rotary back", turned.read(), want_q,
         [&](size_t i) { return 4 * turned.bound(want_q[i]) + 4 * turned.bound(1) - 4 * turned.bound(0); });
    jpllm_set_past_caches(-1);
}

}  // namespace

void test_fused() {
    for (const jpllm_dtype type : {JPLLM_FP32, JPLLM_BF16, JPLLM_FP16}) test_storage(type, 0), test_storage(type, -1);
    for (const int64_t d : {1, 16, 63, 130}) test_norm(d == 63 ? 70 : 5, d);
    test_swiglu(3, 37), test_swiglu(1, 256);
    test_special();
}
