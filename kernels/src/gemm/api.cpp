// The matrix products: the C functions. They check arguments and call the table of the instruction set in use.
#include <string.h>

#include <initializer_list>
#include <new>

#include "../core/check.h"
#include "args.h"

JPLLM_LOOK_UP(GemmTable)

namespace {

using namespace jpllm;

int64_t size_of(int64_t x) { return x < 0 ? -x : x; }

// Elements of a result must lie apart: its rows, or its columns, one behind the other.
bool apart(const jpllm_matrix& c, int64_t m, int64_t n) {
    const int64_t rs = size_of(c.rs), cs = size_of(c.cs);
    if (m == 0 || n == 0) return true;
    if ((n > 1 && cs == 0) || (m > 1 && rs == 0)) return false;
    return m <= 1 || n <= 1 || (rs >= cs ? rs >= cs * (n - 1) + 1 : cs >= rs * (m - 1) + 1);
}

void check_matrix(Check* check, const jpllm_matrix& x, bool any) {
    check->storage(x.dtype).array(x.data, any, element_size(x.dtype));
}

Operand operand(const jpllm_matrix& x) {
    return {x.data, x.rs, x.cs, x.data == nullptr ? kFp32 : static_cast<StorageType>(storage_type(x.dtype))};
}
// As above, but with its type even where it has no memory: it says how a packed operand is packed.
Operand typed(const jpllm_matrix& x) { return {x.data, x.rs, x.cs, static_cast<StorageType>(storage_type(x.dtype))}; }
// A single column has no stride to speak of; 1 lets it take the fast ways.
Result result(const jpllm_matrix& x, int64_t n) {
    return {x.data, x.rs, n == 1 ? 1 : x.cs,
            x.data == nullptr ? kFp32 : static_cast<StorageType>(storage_type(x.dtype))};
}

Check check_math(Check check, const jpllm_gemm_args& g) {
    if (g.math != JPLLM_MATH_FP16_CHUNK) return check.that(g.math == JPLLM_MATH_EXACT || g.math == JPLLM_MATH_INT16);
    for (const jpllm_matrix* x : {&g.a, &g.b, &g.up}) {
        check.that(x->data == nullptr || x->dtype == JPLLM_FP16, JPLLM_ERR_DTYPE);
    }
    const int chunk = g.math_chunk;
    return check.that(chunk == 0 || chunk == 16 || chunk == 32 || chunk == 64 || chunk == 128);
}

Check check_product(const jpllm_gemm_args& g) {
    Check check;
    check.that(g.m >= 0 && g.n >= 0 && g.k >= 0);
    const bool any = g.m > 0 && g.n > 0;
    check_matrix(&check, g.a, any && g.k > 0);
    check_matrix(&check, g.b, any && g.k > 0);
    check_matrix(&check, g.c, any);
    check.that(apart(g.c, g.m, g.n));
    for (const jpllm_matrix* x : {&g.bias, &g.residual, &g.up, &g.gate_out, &g.up_out}) {
        if (x->data != nullptr) check_matrix(&check, *x, any);
    }
    check.that(g.up.data != nullptr || (g.gate_out.data == nullptr && g.up_out.data == nullptr));
    check = check_math(check, g);
    check.that(g.gate_out.data == nullptr || apart(g.gate_out, g.m, g.n));
    check.that(g.up_out.data == nullptr || apart(g.up_out, g.m, g.n));
    check.array(g.packed_b, false, 64);
    return check;
}

Check check_packing(const jpllm_gemm_args& g) {
    Check check;
    check.that(g.n >= 0 && g.k >= 0).that(g.up.data == nullptr).storage(g.a.dtype);
    check_matrix(&check, g.b, g.n > 0 && g.k > 0);
    return check_math(check, g);
}

GemmArgs args_of(const jpllm_gemm_args& g) {
    GemmArgs args{g.m, g.n, g.k, typed(g.a), typed(g.b), result(g.c, g.n)};
    args.accumulate = g.accumulate != 0;
    args.math = g.math == JPLLM_MATH_FP16_CHUNK ? kFp16Chunk : g.math == JPLLM_MATH_INT16 ? kInt16 : kExact;
    if (g.math_chunk > 0) args.chunk = g.math_chunk;
    args.added[0] = operand(g.bias), args.added[1] = operand(g.residual);
    args.up = operand(g.up);
    args.gate_out = result(g.gate_out, g.n), args.up_out = result(g.up_out, g.n);
    args.packed = g.packed_b;
    return args;
}

bool packed_fits(const jpllm_gemm_args& g) {
    return g.packed_b == nullptr || (g.up.data == nullptr && table()->packed_fits(args_of(g), g.packed_b));
}

}  // namespace

extern "C" {

int64_t jpllm_gemm_packed_bytes(const jpllm_gemm_args* args) {
    if (check_packing(*args).status != JPLLM_OK || chosen_isa() < 0) return -1;
    return table()->packed_bytes(args_of(*args));
}

jpllm_status jpllm_gemm_pack_b(const jpllm_gemm_args* args, void* packed, int threads) {
    JPLLM_REQUIRE(check_packing(*args).array(packed, true, 64));
    return done(table()->pack_b(args_of(*args), packed, team_size(threads)));
}

jpllm_status jpllm_gemm_with(const jpllm_gemm_args* args, int threads) {
    JPLLM_REQUIRE(check_product(*args));
    if (!packed_fits(*args)) return JPLLM_ERR_PACKED;
    return done(table()->gemm(args_of(*args), team_size(threads)));
}

jpllm_status jpllm_gemm_batch(int64_t count, const jpllm_gemm_args* products, int threads) {
    Check check = Check().that(count >= 0).array(products, count > 0, alignof(jpllm_gemm_args));
    for (int64_t i = 0; i < count && check.status == JPLLM_OK; ++i) check = check_product(products[i]);
    JPLLM_REQUIRE(check);
    for (int64_t i = 0; i < count; ++i) {
        if (!packed_fits(products[i])) return JPLLM_ERR_PACKED;
    }
    GemmArgs* args = new (std::nothrow) GemmArgs[static_cast<size_t>(count)];
    if (args == nullptr) return JPLLM_ERR_MEMORY;
    for (int64_t i = 0; i < count; ++i) args[i] = args_of(products[i]);
    const jpllm_status status = done(table()->gemm_batch({args, count}, team_size(threads)));
    delete[] args;
    return status;
}

jpllm_status jpllm_gemm(jpllm_dtype dtype, int64_t m, int64_t n, int64_t k, const void* a, int64_t a_rs, int64_t a_cs,
                        const void* b, int64_t b_rs, int64_t b_cs, void* c, int64_t c_rs, int64_t c_cs,
                        const void* bias, int accumulate, int threads) {
    jpllm_gemm_args args;
    memset(&args, 0, sizeof args);
    args.m = m, args.n = n, args.k = k;
    args.a = {const_cast<void*>(a), a_rs, a_cs, dtype};
    args.b = {const_cast<void*>(b), b_rs, b_cs, dtype};
    args.c = {c, c_rs, c_cs, dtype};
    args.bias = {const_cast<void*>(bias), 0, 1, dtype};
    args.accumulate = accumulate;
    return jpllm_gemm_with(&args, threads);
}

jpllm_status jpllm_column_sum(jpllm_dtype dtype, int64_t m, int64_t n, const void* x, int64_t x_rs, float* o,
                              int threads) {
    JPLLM_REQUIRE(
        Check().storage(dtype).that(m >= 0 && n >= 0).array(x, m > 0 && n > 0, element_size(dtype)).array(o, n > 0));
    return done(table()->column_sum[storage_type(dtype)]({m, n, x, x_rs, o}, team_size(threads)));
}

}  // extern "C"
