// Products of 16-bit integers against the definition in jpllm/gemm.h with plain loops over 64-bit integers, bit for
// bit; a NaN is a NaN. The inputs are the same everywhere, and so must be the hash of all results.
#include <algorithm>
#include <functional>

#include "support.h"

namespace {

constexpr int64_t kBlock = 512;
size_t at(int64_t i) { return static_cast<size_t>(i); }

uint64_t next(uint64_t* state) {
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return *state >> 33;
}

enum class Kind { kPlain, kOutliers, kWhole, kTiny, kHuge, kFarApart, kDenormal, kSpecial };
const struct {
    Kind kind;
    const char* name;
} kKinds[] = {{Kind::kPlain, "like activations"},
              {Kind::kOutliers, "outliers"},
              {Kind::kWhole, "whole numbers"},
              {Kind::kTiny, "tiny"},
              {Kind::kHuge, "huge"},
              {Kind::kFarApart, "far apart"},
              {Kind::kDenormal, "denormals"},
              {Kind::kSpecial, "special"}};

Floats numbers(int64_t n, Kind kind, uint64_t seed) {
    Floats out = random_floats(n, seed);
    uint64_t state = seed;
    const auto power = [&](int low, int high) {
        return std::ldexp(1.0f, low + static_cast<int>(next(&state)) % (high - low));
    };
    const float special[] = {INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 1e-45f, -0.0f};
    for (float& x : out) {
        const uint64_t chance = next(&state) % 200;
        switch (kind) {
            case Kind::kPlain:
                break;
            case Kind::kOutliers:
                if (chance == 0) x *= 1e4f;
                break;
            case Kind::kWhole:  // ties on the way to integers, and 32767.5, which must not become 2^15
                x = static_cast<float>(static_cast<int>(next(&state) % 65536) - 32768) + (chance < 100 ? 0.5f : 0.0f);
                break;
            case Kind::kTiny:
                x *= power(-120, -60);
                break;
            case Kind::kHuge:
                x *= power(60, 124);
                break;
            case Kind::kFarApart:
                x *= power(-60, 60);
                break;
            case Kind::kDenormal:
                x *= power(-140, -124);
                break;
            case Kind::kSpecial:
                if (chance == 0) x = special[next(&state) % 7];
                break;
        }
    }
    return out;
}

double flushed(double x) { return std::fabs(x) < std::ldexp(1, -126) ? std::copysign(0.0, x) : x; }

// n numbers as integers and their factor; NaN where one is not finite.
double quantised(const std::vector<float>& x, int64_t* integers) {
    double largest = 0;
    for (const float value : x) {
        if (!std::isfinite(value)) return NAN;
        largest = std::max(largest, std::fabs(static_cast<double>(value)));
    }
    double factor = largest == 0 ? 0 : std::ldexp(1, std::ilogb(largest) - 14);
    if (factor > 0 && std::nearbyint(largest / factor) > 32767) factor *= 2;
    factor = std::max(factor, std::ldexp(1, -125));
    for (size_t i = 0; i < x.size(); ++i) {
        integers[i] = static_cast<int64_t>(std::nearbyint(flushed(static_cast<double>(x[i])) / factor));
    }
    return factor;
}

struct Problem {
    int64_t m, n, k;
    Floats a, b;  // by rows
};

// The sums, onto `start` where there is one.
Floats sums_of(const Problem& p, const Floats* start) {
    Floats sums = start != nullptr ? *start : Floats(at(p.m * p.n), 0.0f);
    for (float& x : sums) x = static_cast<float>(flushed(static_cast<double>(x)));
    for (int64_t first = 0; first < p.k; first += kBlock) {
        const int64_t k = std::min(kBlock, p.k - first);
        std::vector<int64_t> qa(at(p.m * k)), qb(at(p.n * k));
        std::vector<double> sa(at(p.m)), sb(at(p.n));
        std::vector<float> line(at(k));
        for (int64_t i = 0; i < p.m; ++i) {
            for (int64_t s = 0; s < k; ++s) line[at(s)] = p.a[at(i * p.k + first + s)];
            sa[at(i)] = quantised(line, &qa[at(i * k)]);
        }
        for (int64_t j = 0; j < p.n; ++j) {
            for (int64_t s = 0; s < k; ++s) line[at(s)] = p.b[at((first + s) * p.n + j)];
            sb[at(j)] = quantised(line, &qb[at(j * k)]);
        }
        for (int64_t i = 0; i < p.m; ++i) {
            for (int64_t j = 0; j < p.n; ++j) {
                int64_t sum = 0;
                for (int64_t s = 0; s < k; ++s) sum += qa[at(i * k + s)] * qb[at(j * k + s)];
                const double scaled = flushed(static_cast<double>(sum) * sa[at(i)] * sb[at(j)]);
                float& to = sums[at(i * p.n + j)];
                const float x = static_cast<float>(scaled);
                const bool alone = first == 0 && start == nullptr;
                to = alone ? x : static_cast<float>(flushed(static_cast<double>(to) + static_cast<double>(x)));
            }
        }
    }
    return sums;
}

Floats turned(const Floats& x, int64_t rows, int64_t cols) {
    Floats out(x.size());
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < cols; ++j) out[at(j * rows + i)] = x[at(i * cols + j)];
    }
    return out;
}
Floats spread(const Floats& x) {
    Floats out(2 * x.size(), NAN);
    for (size_t i = 0; i < x.size(); ++i) out[2 * i] = x[i];
    return out;
}

uint32_t bits_of(float x) {
    uint32_t bits = 0x7fc00000;
    if (!std::isnan(x)) memcpy(&bits, &x, sizeof bits);
    return bits;
}
uint64_t hash = 0;

void same_values(const std::string& what, const Floats& got, const std::function<float(size_t)>& want) {
    ++checks;
    for (size_t i = 0; i < got.size(); ++i) {
        hash = (hash ^ bits_of(got[i])) * 1099511628211ULL;
        if (bits_of(got[i]) == bits_of(want(i))) continue;
        ++failures;
        fprintf(stderr, "FAILED on %s: %s at %zu: %.9g, expected %.9g\n", isa.c_str(), what.c_str(), i,
                static_cast<double>(got[i]), static_cast<double>(want(i)));
        return;
    }
}

void test_product(int64_t m, int64_t n, int64_t k, Kind kind, const char* name) {
    const Problem p{m, n, k, numbers(m * k, kind, 1), numbers(k * n, kind, 2)};
    const Floats start = random_floats(m * n, 3), bias = random_floats(n, 4);
    const Floats sums = sums_of(p, nullptr), more = sums_of(p, &start);
    Floats at_turned = turned(p.a, m, k), bt = turned(p.b, k, n), wide_a = spread(p.a), wide_b = spread(p.b);
    const std::string what =
        std::string("int16, ") + name + ", " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k);
    jpllm_gemm_args args{};
    args.m = m, args.n = n, args.k = k, args.math = JPLLM_MATH_INT16;
    const auto set = [](jpllm_matrix* x, const Floats& from, int64_t rs, int64_t cs) {
        *x = {const_cast<float*>(from.data()), rs, cs, JPLLM_FP32};
    };
    for (int form = 0; form < 6; ++form) {
        if (form == 4) {
            set(&args.a, wide_a, 2 * k, 2), set(&args.b, wide_b, 2 * n, 2);
        } else {
            (form & 1) != 0 ? set(&args.a, at_turned, 1, m) : set(&args.a, p.a, k, 1);
            (form & 2) != 0 ? set(&args.b, bt, 1, k) : set(&args.b, p.b, n, 1);
        }
        const bool c_turned = form == 5;
        for (const int threads : {1, 3}) {
            Floats c = c_turned ? turned(start, m, n) : start;
            args.accumulate = form % 2, args.bias = {};
            args.c = {c.data(), c_turned ? 1 : n, c_turned ? m : 1, JPLLM_FP32};
            expect(jpllm_gemm_with(&args, threads) == JPLLM_OK, what + " status");
            const Floats& want = args.accumulate != 0 ? more : sums;
            same_values(what + " form " + std::to_string(form), c_turned ? turned(c, n, m) : c,
                        [&](size_t i) { return want[i]; });
        }
    }
    // A bias, which is added to the finished sums.
    Floats c = start;
    set(&args.a, p.a, k, 1), set(&args.b, p.b, n, 1), set(&args.bias, bias, 0, 1);
    args.accumulate = 0, args.c = {c.data(), n, 1, JPLLM_FP32};
    expect(jpllm_gemm_with(&args, 2) == JPLLM_OK, what + " status");
    same_values(what + ", bias", c, [&](size_t i) { return sums[i] + bias[i % at(n)]; });
}

// Operands and a result of 16 bits: the integers are those of their FP32 values, the result is rounded once.
void test_stored(jpllm_dtype type, int64_t m, int64_t n, int64_t k) {
    Stored a(type, numbers(m * k, Kind::kPlain, 5)), b(type, numbers(k * n, Kind::kPlain, 6));
    const Floats sums = sums_of({m, n, k, a.wide, b.wide}, nullptr);
    Stored c(type, Floats(at(m * n))), want(type, sums);
    jpllm_gemm_args args{};
    args.m = m, args.n = n, args.k = k, args.math = JPLLM_MATH_INT16;
    args.a = {a.data(), k, 1, type}, args.b = {b.data(), n, 1, type}, args.c = {c.data(), n, 1, type};
    expect(jpllm_gemm_with(&args, 2) == JPLLM_OK, "int16 status");
    same_values("int16, dtype " + std::to_string(type), c.read(), [&](size_t i) { return want.wide[i]; });
}

// silu(A B) * (A up), whose two products are kept.
void test_gate(int64_t m, int64_t n, int64_t k) {
    const Floats a = random_floats(m * k, 7), b = random_floats(k * n, 8), up = random_floats(k * n, 9);
    Floats c(at(m * n)), kept[2] = {c, c};
    jpllm_gemm_args args{};
    args.m = m, args.n = n, args.k = k, args.math = JPLLM_MATH_INT16;
    const auto set = [](jpllm_matrix* x, const Floats& from, int64_t rs) {
        *x = {const_cast<float*>(from.data()), rs, 1, JPLLM_FP32};
    };
    set(&args.a, a, k), set(&args.b, b, n), set(&args.up, up, n), set(&args.c, c, n);
    set(&args.gate_out, kept[0], n), set(&args.up_out, kept[1], n);
    expect(jpllm_gemm_with(&args, 2) == JPLLM_OK, "int16 gate status");
    const Floats gates = sums_of({m, n, k, a, b}, nullptr), ups = sums_of({m, n, k, a, up}, nullptr);
    same_values("int16, gate", kept[0], [&](size_t i) { return gates[i]; });
    same_values("int16, up", kept[1], [&](size_t i) { return ups[i]; });
    std::vector<double> want(c.size());
    for (size_t i = 0; i < c.size(); ++i) {
        want[i] = static_cast<double>(gates[i]) / (1 + std::exp(-static_cast<double>(gates[i]))) * ups[i];
    }
    near("int16, gated", c, want, [&](size_t i) { return 3e-6 * (std::fabs(want[i]) + 1); });
}

}  // namespace

void test_int16() {
    hash = 14695981039346656037ULL;
    for (const auto& [kind, name] : kKinds) test_product(9, 53, 70, kind, name);
    const int64_t shapes[][3] = {{1, 1, 1}, {3, 2, 0}, {8, 24, 128}, {17, 75, 33}, {5, 20, 1100}, {40, 100, 513}};
    for (const auto& s : shapes) test_product(s[0], s[1], s[2], Kind::kPlain, "shapes");
    test_product(4, 30, 1030, Kind::kFarApart, "far apart");
    test_product(7, 9, 1030, Kind::kDenormal, "denormals");
    for (const jpllm_dtype type : {JPLLM_FP32, JPLLM_BF16, JPLLM_FP16}) test_stored(type, 11, 50, 600);
    test_gate(13, 40, 600);
    char text[64];
    snprintf(text, sizeof text, "the hash of all results is %016llx", static_cast<unsigned long long>(hash));
    expect(hash == 0x2cbdafdca9575706, text);
}
