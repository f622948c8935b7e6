"""Each kernel on each instruction set against NumPy in FP64, with FP32's bounds; the same bits on any thread count.

Letters: M rows, N columns or tokens, K summed dimension, D width, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyjpllm import _native
from tests.kernels.arrays import EPS, array, normal, within

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
orders = st.sampled_from("CFR")
sizes = st.integers(0, 70)
threads = st.integers(1, 4)


def growth(terms: int) -> float:
    """Relative error of a sum of so many terms: roundings add up like a walk (Higham and Mary, 2019, SISC 41(5))."""
    return EPS * (4 + terms**0.5)


@quick
@given(
    m=st.integers(0, 40),
    n=st.integers(0, 110),
    k=st.one_of(st.integers(0, 40), st.sampled_from([255, 256, 257, 300, 513])),
    forms=st.tuples(orders, orders, st.sampled_from("CF")),
    gap=st.integers(0, 3),
    accumulate=st.booleans(),
    with_bias=st.booleans(),
    count=threads,
    seed=st.integers(0, 9),
)
def test_gemm(isa, m, n, k, forms, gap, accumulate, with_bias, count, seed):
    rng = np.random.default_rng(seed)
    a, b = (normal(rng, *shape, order=form, gap=gap) for shape, form in (((m, k), forms[0]), ((k, n), forms[1])))
    c, bias = normal(rng, m, n, order=forms[2], gap=gap), normal(rng, n)
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    added = [c.astype(np.float64) * accumulate, bias.astype(np.float64) * with_bias]
    size = np.abs(a64) @ np.abs(b64) + np.abs(added[0]) + np.abs(added[1])
    _native.gemm(array(a), array(b), array(c), array(bias) if with_bias else None, accumulate, count)
    within(c, a64 @ b64 + added[0] + added[1], growth(k) * size)


def test_gemm_writes_nothing_but_the_result(isa):
    rng = np.random.default_rng(0)
    for m, n, form in ((5, 50, "C"), (13, 7, "F"), (1, 33, "C")):
        a, b = normal(rng, m, 20), normal(rng, 20, n)
        whole = np.full((m + 2, n + 20) if form == "C" else (n + 2, m + 20), 7.0, np.float32)
        inside = whole[1:-1, 10:-10] if form == "C" else whole[1:-1, 10:-10].T
        _native.gemm(array(a), array(b), array(inside), None, False, 2)
        within(inside, a.astype(np.float64) @ b, 1e-4)
        inside[:] = 7.0
        assert (whole == 7.0).all()


def test_gemm_beyond_one_panel(isa):
    rng = np.random.default_rng(0)
    for m, n, k in ((20, 4200, 5), (4200, 20, 5), (3, 9000, 3)):
        a, b, c = normal(rng, m, k), normal(rng, k, n), np.empty((m, n), np.float32)
        _native.gemm(array(a), array(b), array(c), None, False, 2)
        within(c, a.astype(np.float64) @ b, 1e-5)


def test_gemm_rows_do_not_depend_on_the_others(isa):
    rng = np.random.default_rng(0)
    a, b = normal(rng, 64, 300), normal(rng, 300, 50)
    whole, part = np.empty((64, 50), np.float32), np.empty((64, 50), np.float32)
    _native.gemm(array(a), array(b), array(whole), None, False, 1)
    for start, stop in ((0, 1), (1, 4), (4, 21), (21, 64)):
        _native.gemm(array(a[start:stop]), array(b), array(part[start:stop]), None, False, 3)
    assert (whole == part).all()


@quick
@given(m=st.integers(0, 300), n=sizes, gap=st.integers(0, 3), count=threads)
def test_column_sum(isa, m, n, gap, count):
    x, out = normal(np.random.default_rng(m), m, n, gap=gap), np.empty(n, np.float32)
    _native.column_sum(array(x), array(out), count)
    within(out, x.astype(np.float64).sum(0), 4 * EPS * (np.abs(x).sum(0) + 1))


@quick
@given(m=st.integers(0, 40), d=st.integers(0, 140), gap=st.integers(0, 3), count=threads, seed=st.integers(0, 9))
def test_rms_norm(isa, m, d, gap, count, seed):
    rng = np.random.default_rng(seed)
    x, weight, dy = normal(rng, m, d, gap=gap), normal(rng, d), normal(rng, m, d, gap=gap)
    y, dx = (np.empty((m, d + gap), np.float32)[:, :d] for _ in range(2))
    rstd, dweight = np.empty(m, np.float32), np.empty(d, np.float32)
    _native.rms_norm(array(x), None, array(weight), 1e-5, None, array(y), array(rstd), count)
    if d == 0:
        return
    x64 = x.astype(np.float64)
    rstd64 = 1 / np.sqrt((x64**2).mean(1, keepdims=True) + 1e-5)
    within(y, x64 * rstd64 * weight, 1e-6 * (np.abs(x64 * rstd64 * weight) + 1e-3))
    within(rstd[:, None], rstd64, 1e-6 * rstd64)
    _native.rms_norm_backward(array(dy), array(x), None, *map(array, (weight, rstd, dx, dweight)), count)
    wdy = weight * dy.astype(np.float64)
    within(dx, rstd64 * (wdy - x64 * rstd64**2 * (wdy * x64).mean(1, keepdims=True)), 4e-6 * (np.abs(rstd64) + 3))
    terms = dy * x64 * rstd64
    within(dweight, terms.sum(0), 8 * EPS * (np.abs(terms).sum(0) + 1))


@quick
@given(m=st.integers(0, 9), n=sizes, gap=st.integers(0, 3), scale=st.sampled_from([0.1, 3, 60]), count=threads)
def test_swiglu(isa, m, n, gap, scale, count):
    rng = np.random.default_rng(m * 100 + n)
    gate, up, dy = (normal(rng, m, n, gap=gap) for _ in range(3))
    gate *= np.float32(scale)
    y, dgate, dup = (np.empty((m, n + gap), np.float32)[:, :n] for _ in range(3))
    _native.swiglu(array(gate), array(up), array(y), count)
    _native.swiglu_backward(*map(array, (dy, gate, up, dgate, dup)), count)
    g = gate.astype(np.float64)
    s = 1 / (1 + np.exp(-g))
    for got, want in ((y, g * s * up), (dgate, dy * up.astype(np.float64) * s * (1 + g * (1 - s))), (dup, dy * g * s)):
        within(got, want, 1.5e-6 * (np.abs(want) + 0.5))


def test_exp_is_accurate_over_its_whole_range(isa):
    # dup with dy = gate^-1 is the sigmoid itself; for very negative gates that is e^gate.
    gate = np.linspace(-87, -17, 4001, dtype=np.float32)[None]
    ones, dgate, dup = np.ones_like(gate), np.empty_like(gate), np.empty_like(gate)
    _native.swiglu_backward(*map(array, (ones, gate, ones, dgate, dup)), 1)
    want = np.exp(gate.astype(np.float64))
    within(dup / gate, want, 5e-7 * want)


@quick
@given(
    n=st.integers(0, 20),
    v=st.one_of(st.integers(1, 70), st.sampled_from([1023, 1024, 1025])),
    d=st.integers(0, 40),
    forms=st.tuples(orders, orders),
    need=st.sampled_from([(True, True), (True, False), (False, True)]),
    count=threads,
)
def test_linear_logsumexp(isa, n, v, d, forms, need, count):
    rng = np.random.default_rng(n + v + d)
    hidden, weight = normal(rng, n, d, order=forms[0]), normal(rng, v, d, order=forms[1])
    targets = rng.integers(-2, v + 2, n)
    lse, logit = np.empty(n, np.float32), np.empty(n, np.float32)
    _native.linear_logsumexp(*map(array, (hidden, weight, targets, lse, logit)), count)
    h64, w64 = hidden.astype(np.float64), weight.astype(np.float64)
    logits = h64 @ w64.T
    lse64 = np.log(np.exp(logits).sum(1))
    within(lse, lse64, 1e-6 * (np.abs(lse64) + 5))
    onehot = (targets[:, None] == np.arange(v)).astype(np.float64)
    within(logit, (logits * onehot).sum(1), 1e-6 * (np.abs(logits).max(1, initial=0) + 5))

    dlse, dlogit = normal(rng, n), normal(rng, n)
    dhidden, dweight = np.empty((n, d), np.float32), np.empty((v, d), np.float32)
    operands = map(array, (hidden, weight, targets, lse, dlse, dlogit))
    outputs = (array(grad) if wanted else None for grad, wanted in ((dhidden, need[0]), (dweight, need[1])))
    _native.linear_logsumexp_backward(*operands, *outputs, count)
    parts = np.exp(logits - lse64[:, None]) * dlse[:, None], onehot * dlogit[:, None]
    dlogits, size = parts[0] + parts[1], np.abs(parts[0]) + np.abs(parts[1])
    # A softmax is as wrong, relatively, as its logit is absolutely.
    error = growth(d) * (np.abs(h64) @ np.abs(w64).T + np.abs(logits)).max(initial=1) + 4e-7
    if need[0]:
        within(dhidden, dlogits @ w64, (error + growth(v)) * (size @ np.abs(w64)))
    if need[1]:
        within(dweight, dlogits.T @ h64, (error + growth(n)) * (size.T @ np.abs(h64)))


def test_linear_logsumexp_over_several_chunks_of_tokens(isa):
    rng = np.random.default_rng(0)
    n, v, d = 1030, 1100, 3
    hidden, weight, targets = normal(rng, n, d), normal(rng, v, d), rng.integers(0, v, n)
    lse, logit, ones = np.empty(n, np.float32), np.empty(n, np.float32), np.ones(n, np.float32)
    dhidden, dweight = np.empty((n, d), np.float32), np.empty((v, d), np.float32)
    _native.linear_logsumexp(*map(array, (hidden, weight, targets, lse, logit)), 2)
    _native.linear_logsumexp_backward(*map(array, (hidden, weight, targets, lse, ones, -ones, dhidden, dweight)), 2)
    logits = hidden.astype(np.float64) @ weight.T.astype(np.float64)
    lse64 = np.log(np.exp(logits).sum(1))
    within(lse, lse64, 1e-5)
    softmax, onehot = np.exp(logits - lse64[:, None]), (targets[:, None] == np.arange(v)).astype(np.float64)
    dlogits, size = softmax - onehot, softmax + onehot
    # As above: sums of a thousand terms are as wrong as these are large, in an order that differs by instruction set.
    error = growth(d) * (np.abs(hidden) @ np.abs(weight).T + np.abs(logits)).max() + 4e-7
    within(dhidden, dlogits @ weight, (error + growth(v)) * (size @ np.abs(weight)))
    within(dweight, dlogits.T @ hidden, (error + growth(n)) * (size.T @ np.abs(hidden)))


def test_logits_far_from_zero_do_not_overflow(isa):
    hidden, weight = np.full((1, 1), 100.0, np.float32), np.array([[-50.0], [20.0], [20.0]], np.float32)
    lse, logit = np.empty(1, np.float32), np.empty(1, np.float32)
    _native.linear_logsumexp(array(hidden), array(weight), array(np.array([1])), array(lse), array(logit), 1)
    within(lse, np.array([2000 + np.log(2)]), 2e-3)
    assert logit[0] == 2000


def test_nan_and_infinity_come_through(isa):
    special = np.array([[np.inf, -np.inf, np.nan, 0.0, -0.0, 100, -100, 88, 3e38, -3e38]], np.float32)
    ones, y = np.ones_like(special), np.empty_like(special)
    _native.swiglu(array(special), array(ones), array(y), 1)
    assert y[0, 0] == np.inf
    assert np.isnan(y[0, 2])
    assert list(y[0, [3, 4, 5, 7]]) == [0, 0, 100, 88]
    assert y[0, 8] == np.float32(3e38)
    assert np.abs(y[0, [6, 9]]).max() < 1e-35
    a, b, c = np.ones((3, 300), np.float32), np.ones((300, 60), np.float32), np.empty((3, 60), np.float32)
    a[1, 299] = np.nan
    _native.gemm(array(a), array(b), array(c), None, False, 1)
    assert np.isnan(c[1]).all()
    assert (c[[0, 2]] == 300).all()


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_same_bits_on_any_number_of_threads(isa, count):
    def everything(n: int) -> list[bytes]:
        rng = np.random.default_rng(0)
        a, b, c = normal(rng, 130, 270), normal(rng, 270, 300), np.empty((130, 300), np.float32)
        _native.gemm(array(a), array(b), array(c), None, False, n)
        y, rstd, dx, dw = (np.empty(s, np.float32) for s in (c.shape, 130, c.shape, 300))
        weight, sums = normal(rng, 300), np.empty(300, np.float32)
        _native.rms_norm(array(c), None, array(weight), 1e-6, None, array(y), array(rstd), n)
        _native.rms_norm_backward(array(y), array(c), None, *map(array, (weight, rstd, dx, dw)), n)
        _native.column_sum(array(c), array(sums), n)
        lse, logit = np.empty(130, np.float32), np.empty(130, np.float32)
        vocabulary, targets = normal(rng, 1500, 300) / 20, rng.integers(0, 1500, 130)
        dh, dv = np.empty((130, 300), np.float32), np.empty((1500, 300), np.float32)
        _native.linear_logsumexp(*map(array, (y, vocabulary, targets, lse, logit)), n)
        _native.linear_logsumexp_backward(*map(array, (y, vocabulary, targets, lse, rstd, rstd, dh, dv)), n)
        p, m, v = normal(rng, 50001), np.zeros(50001, np.float32), np.zeros(50001, np.float32)
        _native.adamw_step(*map(array, (p, p.copy(), m, v)), None, 1e-3, 0.9, 0.99, 1e-8, 0.1, 1, 1.0, n)
        gate = normal(rng, 300, 300)
        silu = np.empty_like(gate)
        _native.swiglu(array(gate), array(gate), array(silu), n)
        return [x.tobytes() for x in (c, y, dx, dw, sums, lse, logit, dh, dv, p, m, v, silu)]

    assert everything(count) == everything(1)
