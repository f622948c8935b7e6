"""Products by 16-bit integers: the bits of the same arithmetic in NumPy, on every instruction set and thread count.

kernels/tests/int16_test.cpp has more inputs, and the same hash of all results under the emulated A64FX.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyjpllm import _native
from tests.kernels.arrays import array, normal
from tests.kernels.halves import same
from tests.kernels.integers import error_bound, integer_sums
from tests.kernels.stored import array as stored

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def gemm(a, b, c=None, *, threads=2, accumulate=False, bias=None, **more):
    c = np.full((a.shape[0], b.shape[1]), np.nan, np.float32) if c is None else c
    more = {name: array(x) for name, x in more.items()}
    bias = None if bias is None else array(bias)
    _native.gemm(array(a), array(b), array(c), bias, accumulate, threads, math="int16", **more)
    return c


def far_apart(rng, x, powers):
    """x with every number times a power of two up to 2^powers away from 1, and every line times one more."""
    spread = np.exp2(rng.integers(-powers, powers + 1, x.shape)) * np.exp2(rng.integers(-powers, powers + 1))
    return (x * spread).astype(np.float32)


@quick
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 130),
    k=st.one_of(st.integers(0, 70), st.sampled_from([511, 512, 513, 1100])),
    orders=st.tuples(st.sampled_from("CFR"), st.sampled_from("CFR"), st.sampled_from("CF")),
    powers=st.sampled_from([0, 3, 12, 30]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_bits_are_those_of_the_definition(isa, m, n, k, orders, powers, threads, seed):
    rng = np.random.default_rng(seed)
    a, b = normal(rng, m, k, order=orders[0]), normal(rng, k, n, order=orders[1])
    if powers:
        a, b = far_apart(rng, a, powers), far_apart(rng, b, powers)
    c = np.full((m, n), np.nan, np.float32, order=orders[2])
    same(gemm(a, b, c, threads=threads), integer_sums(a, b))
    assert k == 0 or (np.abs(c - a.astype(np.float64) @ b) <= error_bound(a, b)).all()


@quick
@given(
    m=st.integers(1, 9),
    n=st.integers(1, 60),
    k=st.integers(1, 1200),
    bits=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    powers=st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
    seed=st.integers(0, 99),
)
def test_whole_numbers_of_one_power_of_two_are_exact(isa, m, n, k, bits, powers, seed):
    bits = (bits[0], min(bits[1], 24 - bits[0] - 1 - max(k - 1, 1).bit_length()))  # so that FP32 holds the sums
    if bits[1] < 1:
        bits = (3, 3)
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(1 - 2**n_bits, 2**n_bits, shape) for n_bits, shape in zip(bits, [(m, k), (k, n)], strict=True))
    scales = [2.0**power for power in powers]
    got = gemm((a * scales[0]).astype(np.float32), (b * scales[1]).astype(np.float32))
    np.testing.assert_array_equal(got, (a @ b) * scales[0] * scales[1])


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_with_an_outlier_zeroes_denormals_or_what_is_not_finite(isa, seed):
    rng = np.random.default_rng(seed)
    a, b = normal(rng, 21, 600), normal(rng, 600, 50)
    a[0, 3] = 1e30
    a[1] = 0
    a[2] = 1e-41 * np.arange(600)
    a[3] *= np.float32(2.0**-124)
    a[4] *= np.float32(1e36)
    a[5, 9], a[6, 599] = np.inf, np.nan
    b[:, 1], b[77, 2], b[78, 3] = 0, -np.inf, np.nan
    b[5, 4] = np.nextafter(np.float32(4), np.float32(0))  # rounds to 2^15 of the power of two below
    b[:, 6] = np.finfo(np.float32).max
    with np.errstate(over="ignore", invalid="ignore"):
        c = gemm(a, b)
        same(c, integer_sums(a, b))
        finite = np.isfinite(a).all(1)[:, None] & np.isfinite(b).all(0)
        assert np.isnan(c[~finite]).all()
        exact = np.where(finite, a.astype(np.float64) @ b, 0.0)
        inside = finite & (np.abs(exact) + error_bound(a, b) < np.finfo(np.float32).max)
        assert inside.sum() > 700
        assert (np.abs(c - exact)[inside] <= error_bound(a, b)[inside]).all()
    assert (c[1:3, 8:] == 0).all()
    # The outlier is in the first block of 512 steps, and costs nothing in the second.
    assert np.abs(c[0] - exact[0])[7:].max() > 1e20
    same(c[8:], gemm(a[8:], b))


def test_sums_go_on_from_an_fp32_c_and_are_rounded_once_to_an_fp16_one(isa):
    rng = np.random.default_rng(5)
    a, b, start, bias = normal(rng, 21, 1100), normal(rng, 1100, 50, order="F"), normal(rng, 21, 50), normal(rng, 50)
    start[0, 0] = 1e-40
    same(gemm(a, b, start.copy(), accumulate=True), integer_sums(a, b, start))
    want = integer_sums(a, b) + bias
    same(gemm(a, b, np.empty((21, 50), np.float16), bias=bias), want.astype(np.float16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_operands_of_16_bits_count_as_their_fp32_values(isa, dtype):
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(shape, generator=generator).to(dtype) for shape in [(19, 700), (700, 61)])
    a[3, 5], a[4] = 1e-41, 2.0**-24
    c = torch.empty(19, 61)
    _native.gemm(stored(a), stored(b), stored(c), None, False, 2, math="int16")
    same(c.numpy(), integer_sums(a.float().numpy(), b.float().numpy()))


def test_both_products_of_a_gate_are_summed_so(isa):
    rng = np.random.default_rng(6)
    a, b, up = normal(rng, 19, 530), normal(rng, 530, 70), normal(rng, 530, 70)
    kept = [np.empty((19, 70), np.float32) for _ in range(2)]
    c = gemm(a, b, up=up, gate_out=kept[0], up_out=kept[1])
    same(kept[0], integer_sums(a, b))
    same(kept[1], integer_sums(a, up))
    x, y = (z.astype(np.float64) for z in kept)
    np.testing.assert_allclose(c, x / (1 + np.exp(-x)) * y, rtol=2e-6, atol=1e-30)


def test_an_unknown_math_is_told(isa):
    x = np.zeros((4, 4), np.float32)
    with pytest.raises(ValueError, match="math must be exact, fp16-chunk or int16, is int8"):
        _native.gemm(array(x), array(x), array(x), None, False, 1, math="int8")
