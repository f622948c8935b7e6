"""AdamW and the sum of squares against FP64: every type of gradient and copy, sizes from 0, any number of threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyjpllm import _native
from tests.kernels.arrays import EPS
from tests.kernels.stored import TYPES, array, close, made, types

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
threads = st.integers(1, 3)


@quick
@given(*(types, types, st.integers(0, 200), st.integers(1, 1000), st.sampled_from([0, 0.1]), threads))
def test_adamw_step(isa, grad_dtype, model_dtype, n, step, decay, count):
    p, m, v = (made(torch.float32, n, gap=1, seed=seed) for seed in range(3))
    g, model = made(grad_dtype, n, gap=1, seed=3), torch.ones(n, dtype=model_dtype)
    v.abs_()
    v[::3] = 0
    lr, b1, b2, eps, scale = 1e-2, 0.9, 0.95, 1e-8, 0.25
    g64 = g.double() * scale
    m64, v64 = b1 * m.double() + (1 - b1) * g64, b2 * v.double() + (1 - b2) * g64**2
    kept64 = p.double() * (1 - lr * decay)
    update64 = lr * (m64 / (1 - b1**step)) / ((v64 / (1 - b2**step)).sqrt() + eps)
    _native.adamw_step(*map(array, (p, g, m, v, model)), lr, b1, b2, eps, decay, step, scale, count)
    for got, want in ((m, m64), (v, v64)):
        close(got, want, 4 * EPS * (want.abs() + 1))
    # The update is a quotient of some roundings; where v was 0 and the gradient small it is larger than its sum with p.
    close(p, kept64 - update64, 4 * EPS * (kept64.abs() + 1) + 8 * EPS * update64.abs())
    assert torch.equal(model, p.to(model_dtype))


@quick
@given(types, st.one_of(st.integers(0, 300), st.integers(16_000, 70_000)), st.integers(0, 3), st.integers(2, 5))
def test_sum_of_squares(isa, dtype, n, gap, count):
    x = made(dtype, n, gap=gap)
    got = _native.sum_of_squares(array(x), 1)
    assert got == _native.sum_of_squares(array(x), count)
    want = float(x.double().square().sum())
    assert abs(got - want) <= 2200 * 2.0**-53 * want  # the kernel's bound, and as much for torch's own sum


@pytest.mark.parametrize("dtype", TYPES)
def test_sum_of_squares_of_what_fp32_cannot_square(isa, dtype):
    limits = torch.finfo(dtype)
    for size in (limits.max, limits.tiny):
        x = torch.full((1000,), size, dtype=dtype)
        assert _native.sum_of_squares(array(x), 2) == pytest.approx(1000 * float(x[0]) ** 2, rel=1e-12)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("place", [0, 16_383, 16_384, 39_999])
@pytest.mark.parametrize("fault", [float("inf"), -float("inf"), float("nan")])
def test_one_fault_makes_the_sum_not_finite(isa, dtype, place, fault):
    x = torch.ones(40_000, dtype=dtype)
    x[place] = fault
    got = _native.sum_of_squares(array(x), 2)
    assert got != got or got == float("inf")
