// Chunked FP16 products against the same arithmetic in double precision, bit for bit; a NaN is a NaN. The inputs are
// the same everywhere, and so must be the hash of all results: what SVE computes (under the emulator) is what the other
// instruction sets simulate.
#include <algorithm>
#include <functional>

#include "support.h"

namespace {

using Halves = std::vector<uint16_t>;

double value(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double sign = (h & 0x8000) != 0 ? -1 : 1;
    if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
    return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

double flushed(double x) { return std::fabs(x) < std::ldexp(1, -14) ? std::copysign(0.0, x) : x; }

// The nearest FP16 number, ties to even; `smallest` is the exponent at and below which the last bit stays where it is.
double rounded(double x) {
    if (!std::isfinite(x) || x == 0) return x;
    const int exponent = std::max(std::ilogb(x), -14);
    const double r = std::ldexp(std::nearbyint(std::ldexp(x, 10 - exponent)), exponent - 10);
    return std::fabs(r) > 65504 ? std::copysign(INFINITY, x) : r;
}

uint32_t encoded(double x) {
    if (std::isnan(x)) return 0x7e00;
    const uint32_t sign = std::signbit(x) ? 0x8000 : 0;
    x = std::fabs(x);
    if (std::isinf(x)) return sign | 0x7c00;
    if (x < std::ldexp(1, -14)) return sign | static_cast<uint32_t>(std::ldexp(x, 24));
    const int exponent = std::ilogb(x);
    const auto fraction = static_cast<uint32_t>(std::ldexp(x, 10 - exponent)) - 1024;
    return sign | static_cast<uint32_t>(exponent + 15) << 10 | fraction;
}

// The sum in double precision is exact but where its terms lie so far apart that the half is the larger one's anyway.
double multiply_add(double a, double b, double c) { return rounded(flushed(a * b + c)); }

uint64_t next(uint64_t* state) {
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return *state >> 33;
}

// FP16 numbers of a random sign, with exponents in [low, high] (biased by 15; 0 is the denormals') and `bits` bits
// after the leading one; one in `special` is an infinity, NaN, zero, denormal or the largest number.
struct Kind {
    const char* name;
    unsigned low, high, bits, special;
};
const Kind kKinds[] = {
    {"like activations", 8, 16, 10, 0}, {"ties", 13, 17, 4, 0},         {"around the smallest normal", 5, 12, 10, 0},
    {"denormals", 0, 9, 10, 0},         {"overflow", 20, 24, 10, 0},    {"far apart", 1, 27, 10, 0},
    {"special values", 10, 20, 10, 50}, {"few of them", 0, 12, 3, 200},
};

Halves random_halves(size_t n, const Kind& kind, uint64_t state) {
    const uint16_t special[] = {0x7c00, 0xfc00, 0x7e01, 0x0000, 0x8000, 0x0001, 0x83ff, 0x7bff};
    Halves out(n);
    for (uint16_t& h : out) {
        const uint64_t sign = next(&state) & 0x8000, exponent = kind.low + next(&state) % (kind.high - kind.low + 1);
        const uint64_t fraction = next(&state) & 1023 & ~(1023u >> kind.bits);
        h = static_cast<uint16_t>(sign | exponent << 10 | fraction);
        if (kind.special != 0 && next(&state) % kind.special == 0) h = special[next(&state) % 8];
    }
    return out;
}

uint32_t bits_of(float x) {
    uint32_t bits = 0x7fc00000;
    if (!std::isnan(x)) memcpy(&bits, &x, sizeof bits);
    return bits;
}

uint64_t hash = 0;
void take(uint64_t bits) { hash = (hash ^ bits) * 1099511628211ULL; }

// The sums as C starts from: 0, or what was there.
std::vector<float> sums_of(int64_t m, int64_t n, int64_t k, int chunk, const Halves& a, const Halves& b,
                           const std::vector<float>& start) {
    std::vector<double> x(a.size()), y(b.size());
    for (size_t i = 0; i < a.size(); ++i) x[i] = flushed(value(a[i]));
    for (size_t i = 0; i < b.size(); ++i) y[i] = flushed(value(b[i]));
    std::vector<float> sums = start;
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            for (int64_t first = 0; first < k; first += chunk) {
                double sum = -0.0;
                for (int64_t p = first; p < std::min(first + chunk, k); ++p) {
                    sum = multiply_add(x[static_cast<size_t>(i * k + p)], y[static_cast<size_t>(p * n + j)], sum);
                }
                float& to = sums[static_cast<size_t>(i * n + j)];
                to = to + static_cast<float>(sum);
            }
        }
    }
    return sums;
}

Halves turned(const Halves& x, int64_t rows, int64_t cols) {
    Halves out(x.size());
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < cols; ++j)
            out[static_cast<size_t>(j * rows + i)] = x[static_cast<size_t>(i * cols + j)];
    }
    return out;
}
// Every second element, so that neither stride is 1.
Halves spread(const Halves& x) {
    Halves out(2 * x.size(), 0x7e00);
    for (size_t i = 0; i < x.size(); ++i) out[2 * i] = x[i];
    return out;
}

template <class T>
void same_values(const std::string& what, const std::vector<T>& got, const std::function<uint32_t(size_t)>& want,
                 const std::function<uint32_t(T)>& bits) {
    ++checks;
    for (size_t i = 0; i < got.size(); ++i) {
        take(bits(got[i]));
        if (bits(got[i]) == want(i)) continue;
        ++failures;
        fprintf(stderr, "FAILED on %s: %s at %zu: %08x, expected %08x\n", isa.c_str(), what.c_str(), i, bits(got[i]),
                want(i));
        return;
    }
}
uint32_t half_bits(uint16_t h) { return (h & 0x7fff) > 0x7c00 ? 0x7e00u : h; }

void test_product(int64_t m, int64_t n, int64_t k, int chunk, const Kind& kind) {
    const auto count = [](int64_t x, int64_t y) { return static_cast<size_t>(x * y); };
    const Halves a = random_halves(count(m, k), kind, 1), b = random_halves(count(k, n), kind, 2);
    const Halves at = turned(a, m, k), bt = turned(b, k, n), wide_a = spread(a), wide_b = spread(b);
    std::vector<float> start(count(m, n)), zero(start.size(), 0.0f), bias(static_cast<size_t>(n));
    uint64_t state = 3;
    for (float& x : start) x = static_cast<float>(next(&state) % 1000) / 8 - 60;
    for (float& x : bias) x = static_cast<float>(next(&state) % 1000) / 8 - 60;
    const std::vector<float> sums = sums_of(m, n, k, chunk, a, b, zero), more = sums_of(m, n, k, chunk, a, b, start);
    const std::string what = std::string(kind.name) + ", " + std::to_string(m) + "x" + std::to_string(n) + "x" +
                             std::to_string(k) + " by " + std::to_string(chunk);

    jpllm_gemm_args args{};
    args.m = m, args.n = n, args.k = k;
    args.math = JPLLM_MATH_FP16_CHUNK, args.math_chunk = chunk;
    const auto set = [](jpllm_matrix* x, const Halves& from, int64_t rs, int64_t cs) {
        *x = {const_cast<uint16_t*>(from.data()), rs, cs, JPLLM_FP16};
    };
    const auto run = [&](int threads) { return jpllm_gemm_with(&args, threads) == JPLLM_OK; };
    for (int form = 0; form < 6; ++form) {
        form == 4 ? set(&args.a, wide_a, 2 * k, 2) : (form & 1) != 0 ? set(&args.a, at, 1, m) : set(&args.a, a, k, 1);
        form == 5 ? set(&args.b, wide_b, 2 * n, 2) : (form & 2) != 0 ? set(&args.b, bt, 1, k) : set(&args.b, b, n, 1);
        for (const int threads : {1, 3}) {
            std::vector<float> c = start;
            args.accumulate = form % 2, args.bias = {};
            args.c = {c.data(), n, 1, JPLLM_FP32};
            expect(run(threads), what + " status");
            const std::vector<float>& want = args.accumulate != 0 ? more : sums;
            same_values<float>(
                what + " form " + std::to_string(form), c, [&](size_t i) { return bits_of(want[i]); }, bits_of);
        }
    }
    // C turned, where rows become columns; and C in FP16 with a bias, where the sums are kept apart and rounded once.
    std::vector<float> turned_c(start.size());
    args.accumulate = 0, args.c = {turned_c.data(), 1, m, JPLLM_FP32};
    expect(run(2), what + " status");
    same_values<float>(
        what + ", C turned", turned_c,
        [&](size_t i) {
            const auto at_turned = static_cast<int64_t>(i);
            return bits_of(sums[static_cast<size_t>(at_turned % m * n + at_turned / m)]);
        },
        bits_of);
    Halves half_c(start.size());
    args.bias = {bias.data(), 0, 1, JPLLM_FP32}, args.c = {half_c.data(), n, 1, JPLLM_FP16};
    expect(run(2), what + " status");
    same_values<uint16_t>(
        what + ", FP16 C", half_c,
        [&](size_t i) { return encoded(rounded(sums[i] + bias[i % static_cast<size_t>(n)])); }, half_bits);
}

void test_refused() {
    uint16_t h[16] = {};
    float f[16] = {};
    jpllm_gemm_args args{};
    args.m = args.n = args.k = 2;
    args.a = {h, 2, 1, JPLLM_FP16}, args.b = {h, 2, 1, JPLLM_FP16}, args.c = {f, 2, 1, JPLLM_FP32};
    args.math = JPLLM_MATH_FP16_CHUNK;
    expect(jpllm_gemm_with(&args, 1) == JPLLM_OK, "the chunk is 32 where it is not given");
    args.math_chunk = 24;
    expect(jpllm_gemm_with(&args, 1) == JPLLM_ERR_ARGUMENT, "a chunk of 24");
    args.math_chunk = 32, args.b = {f, 2, 1, JPLLM_FP32};
    expect(jpllm_gemm_with(&args, 1) == JPLLM_ERR_DTYPE, "FP32 operands");
}

}  // namespace

void test_fp16_chunk() {
    hash = 14695981039346656037ULL;
    for (const Kind& kind : kKinds) test_product(9, 53, 70, 32, kind);
    const struct {
        int64_t m, n, k;
        int chunk;
    } shapes[] = {{1, 1, 1, 16},      {3, 2, 0, 16},     {8, 96, 128, 64}, {17, 131, 33, 16},
                  {11, 20, 600, 128}, {1, 600, 150, 32}, {4, 77, 90, 16},  {3, 130, 300, 128}};
    for (const auto& s : shapes) test_product(s.m, s.n, s.k, s.chunk, kKinds[0]);
    test_refused();
    char text[64];
    snprintf(text, sizeof text, "the hash of all results is %016llx", static_cast<unsigned long long>(hash));
    expect(hash == 0xb2fb5ec92e5067b5, text);
}
