"""The matrix product's types, epilogues and ways against NumPy in FP64; the same bits on any thread count.

Bounds: sums are FP32 whatever the storage, so |error| <= growth(K) * sum |a b| before the one rounding to C's type.
Letters: M rows, N columns, K summed dimension.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyjpllm import _native
from tests.kernels.arrays import EPS

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
ROUNDING = {torch.float32: EPS, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
SMALLEST = {torch.float32: 0.0, torch.bfloat16: 0.0, torch.float16: 2.0**-24}


def array(t: torch.Tensor) -> _native.Array:
    return t.data_ptr(), t.shape, t.stride(), str(t.dtype).removeprefix("torch."), t


def growth(terms: int) -> float:
    """Relative error of a sum of so many terms: roundings add up like a walk (Higham and Mary, 2019, SISC 41(5))."""
    return EPS * (6 + terms**0.5)


def matrix(generator: torch.Generator, rows: int, cols: int, dtype: torch.dtype, turned: bool) -> torch.Tensor:
    x = torch.randn(cols if turned else rows, rows if turned else cols, generator=generator).to(dtype)
    return x.t() if turned else x


def within(actual: torch.Tensor, expected: np.ndarray, bound: np.ndarray) -> None:
    error = np.abs(actual.double().numpy() - expected)
    rounded = bound + ROUNDING[actual.dtype] * (np.abs(expected) + bound) + SMALLEST[actual.dtype]
    assert (error <= rounded).all(), f"worst {error.max()}, bound {rounded.max()}"


@quick
@given(
    m=st.one_of(st.integers(1, 40), st.sampled_from([100, 300])),
    n=st.one_of(st.integers(1, 110), st.sampled_from([257, 300])),
    k=st.one_of(st.integers(0, 40), st.sampled_from([255, 300, 513, 1100])),
    turned=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    types=st.tuples(dtypes, dtypes, dtypes),
    extras=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 9),
)
def test_types_and_epilogues(isa, m, n, k, turned, types, extras, seed):
    generator = torch.Generator().manual_seed(seed)
    a = matrix(generator, m, k, types[0], turned[0])
    b = matrix(generator, k, n, types[1], turned[1])
    start = matrix(generator, m, n, types[2], turned[2])
    bias, residual = torch.randn(n, generator=generator), matrix(generator, m, n, types[0], False)
    want = a.double().numpy() @ b.double().numpy()
    size = np.abs(a.double().numpy()) @ np.abs(b.double().numpy())
    with_bias, with_residual, accumulate = extras
    for use, more in zip(extras, (bias, residual, start), strict=True):
        if use:
            want = want + more.double().numpy()
            size = size + np.abs(more.double().numpy())
    results = []
    for threads in (1, 3):
        c = start.clone()
        _native.gemm(
            array(a),
            array(b),
            array(c),
            array(bias) if with_bias else None,
            accumulate,
            threads,
            residual=array(residual) if with_residual else None,
        )
        results.append(c)
    assert torch.equal(*results)
    within(results[0], want, growth(k) * size)


@quick
@given(
    m=st.sampled_from([1, 5, 33, 130]),
    n=st.sampled_from([1, 24, 50, 300]),
    k=st.sampled_from([1, 40, 600]),
    dtype=dtypes,
    keep=st.booleans(),
)
def test_gate(isa, m, n, k, dtype, keep):
    generator = torch.Generator().manual_seed(m * n)
    x = matrix(generator, m, k, dtype, False)
    gate_w, up_w = (matrix(generator, k, n, dtype, True) * k**-0.5 for _ in range(2))
    results = []
    for threads in (1, 3):
        y, gate, up = (torch.empty(m, n, dtype=dtype) for _ in range(3))
        kept = {"gate_out": array(gate), "up_out": array(up)} if keep else {}
        _native.gemm(array(x), array(gate_w), array(y), None, False, threads, up=array(up_w), **kept)
        results.append(y)
    assert torch.equal(*results)
    x64, g64, u64 = (t.double().numpy() for t in (x, gate_w, up_w))
    g, u = x64 @ g64, x64 @ u64
    g_error, u_error = (growth(k) * (np.abs(x64) @ np.abs(w)) for w in (g64, u64))
    if keep:
        within(gate, g, g_error)
        within(up, u, u_error)
    sigmoid = 1 / (1 + np.exp(-g))
    # |silu'| <= 1.1, and 8 roundings of the gate itself.
    bound = 1.1 * g_error * np.abs(u) + np.abs(g * sigmoid) * u_error + 8 * EPS * np.abs(g * sigmoid * u)
    within(results[0], g * sigmoid * u, bound + 1.1 * g_error * u_error)


@pytest.mark.parametrize("rows", [1, 3, 9, 40])
@pytest.mark.parametrize("turned", [False, True])
def test_not_finite_stays_so(isa, rows, turned):
    generator = torch.Generator().manual_seed(0)
    a, b = matrix(generator, rows, 70, torch.float32, False), matrix(generator, 70, 50, torch.float32, turned)
    a[0, 3], b[5, 7], b[6, 9] = float("nan"), float("inf"), float("nan")
    c = torch.empty(rows, 50)
    _native.gemm(array(a), array(b), array(c), None, False, 2)
    want = (a.double() @ b.double()).float()
    assert torch.equal(c.isnan(), want.isnan())
    assert torch.equal(c.isinf(), want.isinf())


def test_huge_strides_and_unaligned(isa):
    whole_a, whole_b = torch.randn(70, 4099), torch.randn(30, 5003)
    a, b = whole_a[::2, 1:900:3], whole_b[:, 7:307].t()[:, ::2]
    c = torch.zeros(35, 4001)[:, 3::271]
    _native.gemm(array(a), array(b), array(c), None, False, 2)
    a64, b64 = a.double().numpy(), b.double().numpy()
    within(c, a64 @ b64, growth(300) * (np.abs(a64) @ np.abs(b64)))


def test_column_sum_of_16_bits(isa):
    x = torch.randn(300, 50).bfloat16()
    out = torch.empty(50)
    _native.column_sum(array(x), array(out), 2)
    within(out, x.double().sum(0).numpy(), 4 * EPS * x.double().abs().sum(0).numpy())
