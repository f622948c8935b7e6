// The kernels' own test program, without Python: every operation on every instruction set that this CPU runs, against
// plain loops in double precision, and the same bits on one thread and on three. It is what proves the SVE unit under
// an emulated A64FX:  qemu-aarch64-static -cpu a64fx -L /usr/aarch64-linux-gnu build/kernels_test sve512,scalar
// The argument, if given, is the list of instruction sets that must be here.
//
// Bounds: eps = 2^-24 is FP32's rounding; a sum of K products of unit-normal numbers may be wrong by a few
// eps * sqrt(K) * sqrt(blocks), allowed here is 4 eps * (the sum of the absolute products) + a rounding of the result.
#include <stdio.h>
#include <string.h>

#include <cmath>
#include <string>
#include <vector>

#include "jpllm_kernels.h"

namespace {

constexpr double kEps = 1.0 / (1 << 24);
int failures = 0, checks = 0;
std::string isa;

void expect(bool ok, const std::string& what) {
    ++checks;
    if (!ok) {
        ++failures;
        fprintf(stderr, "FAILED on %s: %s\n", isa.c_str(), what.c_str());
    }
}

using Floats = std::vector<float>;

// A fixed sequence of roughly normal numbers (sum of four uniforms), by a 64-bit linear congruential generator.
Floats random_floats(int64_t n, uint64_t seed) {
    uint64_t state = seed * 2862933555777941757ULL + 3037000493ULL;
    Floats out(static_cast<size_t>(n));
    for (float& x : out) {
        double sum = 0;
        for (int i = 0; i < 4; ++i) {
            state = state * 6364136223846793005ULL + 1442695040888963407ULL;
            sum += static_cast<double>(state >> 11) / 9007199254740992.0 - 0.5;
        }
        x = static_cast<float>(sum * 1.7);
    }
    return out;
}

// Compares within `bound(i)` and names the first fault. NaN never passes.
template <class Bound>
void near(const std::string& what, const Floats& got, const std::vector<double>& want, Bound bound) {
    ++checks;
    for (size_t i = 0; i < want.size(); ++i) {
        if (!(std::fabs(got[i] - want[i]) <= bound(i))) {
            ++failures;
            fprintf(stderr, "FAILED on %s: %s at %zu: %.9g, expected %.9g within %.3g\n", isa.c_str(), what.c_str(), i,
                    static_cast<double>(got[i]), want[i], bound(i));
            return;
        }
    }
}

void same_bits(const std::string& what, const Floats& a, const Floats& b) {
    expect(a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0,
           what + ": one thread and three give different bits");
}

void test_gemm(int64_t m, int64_t n, int64_t k) {
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
        expect(jpllm_rms_norm(JPLLM_FP32, m, d, x.data(), pitch, w.data(), eps, y[run].data(), d, rstd[run].data(),
                              threads) == JPLLM_OK,
               what);
        expect(jpllm_rms_norm_backward(JPLLM_FP32, m, d, dy.data(), d, x.data(), pitch, w.data(), rstd[run].data(),
                                       dx[run].data(), d, dw[run].data(), threads) == JPLLM_OK,
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

void test_logsumexp(int64_t n, int64_t v, int64_t d) {
    const std::string what =
        "linear_logsumexp " + std::to_string(n) + "x" + std::to_string(v) + "x" + std::to_string(d);
    const Floats h = random_floats(n * d, 11), w = random_floats(v * d, 12), dlse = random_floats(n, 13);
    const Floats dtarget = random_floats(n, 14);
    std::vector<int64_t> targets(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) targets[static_cast<size_t>(i)] = i % 5 == 3 ? -100 : (i * 37) % (v + 2);
    Floats lse[2], logit[2], dh[2], dw[2];
    for (int run = 0; run < 2; ++run) {
        lse[run].resize(targets.size()), logit[run].resize(targets.size());
        dh[run].resize(h.size()), dw[run].resize(w.size());
        const int threads = run == 0 ? 1 : 3;
        expect(jpllm_linear_logsumexp(JPLLM_FP32, n, v, d, h.data(), d, 1, w.data(), d, 1, targets.data(),
                                      lse[run].data(), logit[run].data(), threads) == JPLLM_OK,
               what);
        expect(jpllm_linear_logsumexp_backward(JPLLM_FP32, n, v, d, h.data(), d, 1, w.data(), d, 1, targets.data(),
                                               lse[run].data(), dlse.data(), dtarget.data(), dh[run].data(),
                                               dw[run].data(), threads) == JPLLM_OK,
               what);
    }
    same_bits(what + " lse", lse[0], lse[1]), same_bits(what + " dh", dh[0], dh[1]);
    same_bits(what + " dw", dw[0], dw[1]);
    std::vector<double> want_lse(targets.size()), want_logit(targets.size()), want_dh(h.size()), want_dw(w.size());
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
            }
        }
    }
    near(what + " lse", lse[0], want_lse, [&](size_t i) { return 1e-6 * (std::fabs(want_lse[i]) + 3); });
    near(what + " target", logit[0], want_logit, [&](size_t i) { return 1e-6 * (std::fabs(want_logit[i]) + 3); });
    near(what + " dh", dh[0], want_dh, [](size_t) { return 2e-5; });
    near(what + " dw", dw[0], want_dw, [](size_t) { return 2e-5; });
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
    Floats h(20, 1.0f), w(60, 1.0f), lse(1), logit(1);
    h[7] = nan;
    const int64_t target = 1;
    jpllm_linear_logsumexp(JPLLM_FP32, 1, 3, 20, h.data(), 20, 1, w.data(), 20, 1, &target, lse.data(), logit.data(),
                           1);
    expect(std::isnan(lse[0]), "linear_logsumexp lets NaN through");
}

void test_status() {
    float x[8] = {};
    const void* odd = reinterpret_cast<const char*>(x) + 1;
    expect(jpllm_gemm(JPLLM_FP64, 1, 1, 1, x, 1, 1, x, 1, 1, x, 1, 1, nullptr, 0, 1) == JPLLM_ERR_DTYPE, "dtype");
    expect(jpllm_gemm(JPLLM_FP32, -1, 1, 1, x, 1, 1, x, 1, 1, x, 1, 1, nullptr, 0, 1) == JPLLM_ERR_ARGUMENT, "size");
    expect(jpllm_gemm(JPLLM_FP32, 1, 1, 1, nullptr, 1, 1, x, 1, 1, x, 1, 1, nullptr, 0, 1) == JPLLM_ERR_ARGUMENT,
           "null");
    expect(jpllm_gemm(JPLLM_FP32, 1, 1, 1, odd, 1, 1, x, 1, 1, x, 1, 1, nullptr, 0, 1) == JPLLM_ERR_ALIGNMENT,
           "alignment");
    expect(jpllm_gemm(JPLLM_FP32, 2, 2, 1, x, 1, 1, x, 1, 1, x, 1, 1, nullptr, 0, 1) == JPLLM_ERR_ARGUMENT,
           "an output that overlaps itself");
    expect(jpllm_set_isa("mmx") == JPLLM_ERR_ISA, "unknown instruction set");
    expect(jpllm_fma_peak(-1, 1, nullptr) == JPLLM_ERR_ARGUMENT, "probe");
    expect(strlen(jpllm_status_string(JPLLM_ERR_ISA)) > 10, "status text");
}

bool in_list(const std::string& list, const std::string& word) {
    return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string here = jpllm_isas();
    printf("instruction sets: %s (built: %s); in use: %s; threads: %s\n", here.c_str(), jpllm_isas_built(), jpllm_isa(),
           jpllm_thread_runtime());
    std::string wanted = argc > 1 ? argv[1] : here;
    for (std::string rest = wanted + ","; !rest.empty(); rest.erase(0, rest.find(',') + 1)) {
        isa = rest.substr(0, rest.find(','));
        if (!in_list(here, isa)) {
            fprintf(stderr, "FAILED: %s is not among %s\n", isa.c_str(), here.c_str());
            return 1;
        }
        expect(jpllm_set_isa(isa.c_str()) == JPLLM_OK && isa == jpllm_isa(), "set_isa");
        checks = 0;
        const int64_t shapes[][3] = {{1, 1, 1},     {7, 5, 3},    {8, 48, 16},   {13, 97, 33},
                                     {33, 50, 300}, {1, 70, 260}, {200, 17, 40}, {5, 6, 0}};
        for (const auto& s : shapes) test_gemm(s[0], s[1], s[2]);
        for (const int64_t d : {1, 16, 63, 130}) test_norm(d == 63 ? 70 : 5, d);
        test_swiglu(3, 37), test_swiglu(1, 256);
        test_logsumexp(5, 7, 9), test_logsumexp(9, 1100, 20), test_logsumexp(1030, 11, 6);
        for (const int64_t n : {1, 16, 77}) test_adamw(n);
        test_special(), test_status();
        printf("%s: %d checks\n", isa.c_str(), checks);
    }
    if (failures != 0) fprintf(stderr, "%d checks failed\n", failures);
    return failures == 0 ? 0 : 1;
}
