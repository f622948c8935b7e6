// Matrix products against plain loops in double precision.
#include <algorithm>

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

// BF16 times BF16: by the dot product where there is one, which flushes denormals (simd/avx512bf16.h). Its sums have a
// rounding a product as FP32's have, so the bound is the same; `type` is C's, with its own rounding.
void test_bf16(int64_t m, int64_t n, int64_t k, jpllm_dtype type, int form, bool more) {
    const bool ta = (form & 1) != 0, tb = (form & 2) != 0, tc = (form & 4) != 0;
    const std::string what = "gemm BF16 " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) +
                             " form " + std::to_string(form) + " to dtype " + std::to_string(type);
    Stored a(JPLLM_BF16, random_floats(m * k * 2, 1)), b(JPLLM_BF16, random_floats(k * n * 2, 2));
    Stored start(type, random_floats(m * n, 3)), bias(JPLLM_BF16, random_floats(n, 4));
    // Forms from 8 on: every other element, so that nothing is in line.
    const int64_t apart = (form & 8) != 0 ? 2 : 1;
    const int64_t a_rs = apart * (ta ? 1 : k), a_cs = apart * (ta ? m : 1), b_rs = apart * (tb ? 1 : n);
    const int64_t b_cs = apart * (tb ? k : 1), c_rs = tc ? 1 : n, c_cs = tc ? m : 1;
    Stored c[2] = {start, start};
    for (int run = 0; run < 2; ++run) {
        jpllm_gemm_args args;
        memset(&args, 0, sizeof args);
        args.m = m, args.n = n, args.k = k;
        args.a = {a.data(), a_rs, a_cs, JPLLM_BF16}, args.b = {b.data(), b_rs, b_cs, JPLLM_BF16};
        args.c = {c[run].data(), c_rs, c_cs, type};
        if (more) args.bias = {bias.data(), 0, 1, JPLLM_BF16}, args.accumulate = 1;
        expect(jpllm_gemm_with(&args, run == 0 ? 1 : 3) == JPLLM_OK, what + " status");
    }
    same_bits(what, c[0].read(), c[1].read());
    std::vector<double> want(start.wide.size()), size(start.wide.size());
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            const size_t at = static_cast<size_t>(i * c_rs + j * c_cs);
            double sum = more ? static_cast<double>(start.wide[at]) + bias.wide[static_cast<size_t>(j)] : 0;
            double absolute = std::fabs(sum);
            for (int64_t p = 0; p < k; ++p) {
                const double product = static_cast<double>(a.wide[static_cast<size_t>(i * a_rs + p * a_cs)]) *
                                       b.wide[static_cast<size_t>(p * b_rs + j * b_cs)];
                sum += product, absolute += std::fabs(product);
            }
            want[at] = sum, size[at] = absolute;
        }
    }
    const double rounding = type == JPLLM_FP32 ? kEps : type == JPLLM_BF16 ? 1.0 / 256 : 1.0 / 2048;
    near(what, c[0].wide, want, [&](size_t i) { return 4 * kEps * (size[i] + 1) + rounding * std::fabs(want[i]); });
}

// What is not finite comes out where it belongs and nowhere else; denormals are themselves or zero.
void test_bf16_special(int64_t m, int64_t k) {
    const int64_t n = 50;
    const float tiny = 0x1p-130f;
    const std::string what = "gemm BF16 special, " + std::to_string(m) + " rows, K " + std::to_string(k);
    for (int form = 0; form < 4; ++form) {
        const bool ta = (form & 1) != 0, tb = (form & 2) != 0;
        const int64_t a_rs = ta ? 1 : k, a_cs = ta ? m : 1, b_rs = tb ? 1 : n, b_cs = tb ? k : 1;
        Stored a(JPLLM_BF16, Floats(static_cast<size_t>(m * k), 1)),
            b(JPLLM_BF16, Floats(static_cast<size_t>(k * n), 1));
        // Each of these is a BF16 number: its upper half has it all.
        const auto put = [](Stored& x, int64_t at, float value) {
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            x.narrow[static_cast<size_t>(at)] = static_cast<uint16_t>(bits >> 16);
        };
        put(a, (m - 1) * a_rs + (k - 1) * a_cs, NAN);  // the last element, beside the padding of an odd K
        put(b, 0 * b_rs + 7 * b_cs, INFINITY);
        put(b, (k - 1) * b_rs + 9 * b_cs, -INFINITY);
        for (int64_t p = 0; p < k; ++p) put(b, p * b_rs + 11 * b_cs, tiny);
        Floats c(static_cast<size_t>(m * n), 5);
        jpllm_gemm_args args;
        memset(&args, 0, sizeof args);
        args.m = m, args.n = n, args.k = k;
        args.a = {a.data(), a_rs, a_cs, JPLLM_BF16}, args.b = {b.data(), b_rs, b_cs, JPLLM_BF16};
        args.c = {c.data(), n, 1, JPLLM_FP32};
        expect(jpllm_gemm_with(&args, 2) == JPLLM_OK, what);
        for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
                const float x = c[static_cast<size_t>(i * n + j)], whole = static_cast<float>(k);
                const bool right = i == m - 1 ? std::isnan(x)
                                   : j == 7   ? x == INFINITY
                                   : j == 9   ? x == -INFINITY
                                   : j == 11  ? x == 0 || std::fabs(x - tiny * whole) <= 1e-42f * whole
                                              : x == whole;
                expect(right,
                       what + " form " + std::to_string(form) + " at " + std::to_string(i) + ", " + std::to_string(j));
            }
        }
    }
}

// Rows of B in line: the first rows of a product have the bits that they have with more rows behind them.
void test_few_rows(jpllm_dtype dtype, jpllm_math math) {
    const int64_t most = 40, n = 77, k = 1101;
    Stored a(dtype, random_floats(most * k, 1)), b(dtype, random_floats(k * n, 2));
    Floats c[2] = {Floats(most * n, 1), Floats(most * n, 1)};
    for (const int64_t few : {1, 3, 4}) {
        for (const int accumulate : {0, math == JPLLM_MATH_FP16_CHUNK ? 1 : 0}) {
            for (int run = 0; run < 2; ++run) {
                std::fill(c[run].begin(), c[run].end(), 1.0f);
                jpllm_gemm_args args{};
                args.m = run == 0 ? most : few, args.n = n, args.k = k, args.accumulate = accumulate, args.math = math;
                args.a = {a.data(), k, 1, dtype}, args.b = {b.data(), n, 1, dtype};
                args.c = {c[run].data(), n, 1, JPLLM_FP32};
                expect(jpllm_gemm_with(&args, 2) == JPLLM_OK, "few rows");
                c[run].resize(static_cast<size_t>(few * n));
            }
            same_bits("gemm of " + std::to_string(few) + " rows, dtype " + std::to_string(dtype) + ", math " +
                          std::to_string(math),
                      c[0], c[1]);
            for (Floats& x : c) x.resize(most * n);
        }
    }
}

// A packed B, for any number of rows: the same bits, and refused where it is of something else.
void test_packed(jpllm_dtype a_type, jpllm_dtype b_type, jpllm_math math) {
    const int64_t most = 40, n = 1105, k = 700;
    Stored a(a_type, random_floats(most * k, 1)), b(b_type, random_floats(k * n, 2));
    const std::string what = "packed B of dtype " + std::to_string(b_type) + ", math " + std::to_string(math);
    for (const bool turned : {false, true}) {
        jpllm_gemm_args args{};
        args.n = n, args.k = k, args.math = math;
        args.a = {a.data(), k, 1, a_type}, args.b = {b.data(), turned ? 1 : n, turned ? k : 1, b_type};
        const int64_t bytes = jpllm_gemm_packed_bytes(&args);
        expect(bytes > 0, what + " size");
        std::vector<char> memory(static_cast<size_t>(bytes > 0 ? bytes + 64 : 64));
        char* packed = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
        expect(jpllm_gemm_pack_b(&args, packed, 3) == JPLLM_OK, what);
        for (const int64_t rows : {int64_t{1}, int64_t{5}, most}) {
            Floats c[2] = {Floats(static_cast<size_t>(rows * n)), Floats(static_cast<size_t>(rows * n))};
            for (int run = 0; run < 2; ++run) {
                args.m = rows, args.c = {c[run].data(), n, 1, JPLLM_FP32};
                args.packed_b = run == 0 ? packed : nullptr;
                expect(jpllm_gemm_with(&args, run == 0 ? 3 : 1) == JPLLM_OK, what);
            }
            same_bits(what + ", " + std::to_string(rows) + " rows", c[0], c[1]);
        }
        args.packed_b = packed, args.n = n - 1;
        expect(jpllm_gemm_with(&args, 1) == JPLLM_ERR_PACKED, what + " of another size");
        args.n = n, args.packed_b = packed + 4;
        expect(jpllm_gemm_with(&args, 1) == JPLLM_ERR_ALIGNMENT, what + " not aligned");
    }
}

}  // namespace

void test_gemm() {
    test_packed(JPLLM_FP32, JPLLM_FP32, JPLLM_MATH_EXACT), test_packed(JPLLM_BF16, JPLLM_BF16, JPLLM_MATH_EXACT);
    test_packed(JPLLM_FP16, JPLLM_FP16, JPLLM_MATH_EXACT), test_packed(JPLLM_FP16, JPLLM_FP16, JPLLM_MATH_FP16_CHUNK);
    for (const jpllm_dtype dtype : {JPLLM_FP32, JPLLM_BF16, JPLLM_FP16}) test_few_rows(dtype, JPLLM_MATH_EXACT);
    test_few_rows(JPLLM_FP16, JPLLM_MATH_FP16_CHUNK);
    const int64_t shapes[][3] = {{1, 1, 1},     {7, 5, 3},    {8, 48, 16},   {13, 97, 33},
                                 {33, 50, 300}, {1, 70, 260}, {200, 17, 40}, {5, 6, 0}};
    for (const auto& s : shapes) test_product(s[0], s[1], s[2]);
    const int64_t bf16_shapes[][3] = {{1, 1, 1},   {1, 40, 65},   {4, 33, 1},     {3, 70, 31},    {7, 5, 3},
                                      {8, 48, 32}, {13, 97, 33},  {16, 16, 2},    {9, 130, 5},    {33, 50, 1100},
                                      {5, 6, 0},   {100, 60, 95}, {2, 100, 2100}, {17, 112, 1025}};
    for (const auto& s : bf16_shapes) {
        for (int form = 0; form < 16; ++form) {
            const jpllm_dtype types[] = {JPLLM_FP32, JPLLM_BF16, JPLLM_FP16};
            test_bf16(s[0], s[1], s[2], types[(form + s[2]) % 3], form, form % 5 == 0);
        }
    }
    for (const int64_t rows : {1, 4, 9, 40}) {
        for (const int64_t k : {3, 32, 67}) test_bf16_special(rows, k);
    }
}
