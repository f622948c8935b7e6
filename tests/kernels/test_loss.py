"""The loss on each instruction set against NumPy in FP64, ordinary and adversarial; the same bits on any thread count.

Letters: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyjpllm import _native
from tests.kernels.arrays import EPS, array, normal, within

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def cross_entropy(hidden, weight, targets, z_loss=0.0, threads=1):
    """(loss, z-loss, dhidden, dweight) by the kernel, and in FP64 with the magnitude of the logits' sums."""
    dhidden, dweight = np.empty(hidden.shape, np.float32), np.empty(weight.shape, np.float32)
    sums = _native.linear_cross_entropy(
        *map(array, (hidden, weight, targets)), z_loss, *map(array, (dhidden, dweight)), threads
    )
    return *sums, dhidden, dweight


def exact(hidden, weight, targets, z_loss=0.0):
    """The same in FP64, and the parts of the gradients without their signs."""
    h, w = hidden.astype(np.float64), weight.astype(np.float64)
    logits = h @ w.T
    peak = logits.max(1, keepdims=True)
    lse = peak + np.log(np.exp(logits - peak).sum(1, keepdims=True))
    onehot = (targets[:, None] == np.arange(len(weight))).astype(np.float64)
    counts = onehot.sum(1, keepdims=True)
    softmax = counts * (1 + 2 * z_loss * lse) * np.exp(logits - lse)
    loss, penalty = (counts * lse).sum() - (onehot * logits).sum(), z_loss * (counts * lse**2).sum()
    dlogits, size = softmax - onehot, np.abs(softmax) + onehot
    return loss, penalty, dlogits @ w, dlogits.T @ h, size @ np.abs(w), size.T @ np.abs(h)


@quick
@given(
    n=st.integers(0, 30),
    v=st.one_of(st.integers(1, 70), st.sampled_from([2047, 2048, 2049, 5000])),
    d=st.integers(0, 40),
    forms=st.tuples(st.sampled_from("CFR"), st.sampled_from("CFR")),
    gap=st.integers(0, 3),
    z_loss=st.sampled_from([0.0, 1e-3]),
    count=st.integers(1, 4),
)
def test_linear_cross_entropy(isa, n, v, d, forms, gap, z_loss, count):
    rng = np.random.default_rng(n + v + d)
    hidden, weight = normal(rng, n, d, order=forms[0], gap=gap), normal(rng, v, d, order=forms[1], gap=gap)
    targets = rng.integers(-2, v + 2, n)
    loss, penalty, dhidden, dweight = cross_entropy(hidden, weight, targets, z_loss, count)
    want_loss, want_penalty, want_dhidden, want_dweight, of_hidden, of_weight = exact(hidden, weight, targets, z_loss)
    reach = np.abs(hidden).astype(np.float64) @ np.abs(weight).astype(np.float64).T
    # A softmax is as wrong, relatively, as its logit is absolutely.
    error = EPS * (8 + d**0.5) * (1 + reach.max(initial=1))
    assert abs(loss - want_loss) <= error * (n + 1)
    assert abs(penalty - want_penalty) <= 2 * error * z_loss * (n + 1) * (10 + reach.max(initial=1))
    within(dhidden, want_dhidden, (error + EPS * (8 + v**0.5)) * of_hidden + 1e-37)
    within(dweight, want_dweight, (error + EPS * (8 + n**0.5)) * of_weight + 1e-37)


def test_several_chunks_of_tokens(isa):
    # 96 MiB of logits hold 16 tokens at least: a vocabulary of 1.6 million would be needed to see the minimum; here
    # 300 tokens of 100,000 words make two chunks.
    rng = np.random.default_rng(0)
    hidden, weight, targets = normal(rng, 300, 2), normal(rng, 100_000, 2), rng.integers(0, 100_000, 300)
    targets[:260] = -1  # nothing counts in the first
    got = cross_entropy(hidden, weight, targets, 1e-3, 2)
    want = exact(hidden, weight, targets, 1e-3)
    for ours, right, bound in zip(got, want[:4], (1e-3, 1e-3, 1e-4, 1e-4), strict=True):
        within(np.asarray(ours), np.asarray(right), bound)


def test_large_logits(isa):
    """At 1e4 a logit is rounded to 1e-3, and so is what follows; nothing overflows."""
    hidden, weight = np.full((3, 1), 100.0, np.float32), np.linspace(-100, 100, 3000, dtype=np.float32)[:, None]
    targets = np.array([2999, 0, 1500])
    loss, _, dhidden, dweight = cross_entropy(hidden, weight, targets)
    want = exact(hidden, weight, targets)
    assert abs(loss - want[0]) <= 3 * 1e4 * 4 * EPS
    within(dhidden, want[2], 1e4 * 8 * EPS * want[4])
    within(dweight, want[3], 1e4 * 8 * EPS * want[5] + 1e-30)


@pytest.mark.parametrize("where", [0, 5, 2050])
def test_infinite_logits(isa, where):
    """A word of -inf takes no part, wherever it is; +inf and NaN come out as they do of the formula."""
    v = 2100
    hidden, weight = np.ones((2, 1), np.float32), np.zeros((v, 1), np.float32)
    targets, lse, logit = np.array([7, -1]), np.empty(2, np.float32), np.empty(2, np.float32)
    for value, want in ((-np.inf, np.log(v - 1)), (np.inf, np.inf), (np.nan, np.nan)):
        weight[where] = value
        loss = cross_entropy(hidden, weight, targets)[0]
        _native.linear_logsumexp(*map(array, (hidden, weight, targets, lse, logit)), 1)
        np.testing.assert_allclose([loss, *lse], want, rtol=1e-6)
    weight[:] = -np.inf
    _native.linear_logsumexp(*map(array, (hidden, weight, targets, lse, logit)), 1)
    assert (lse == -np.inf).all()
    weight[2048:] = 1  # the first blocks have nothing
    _native.linear_logsumexp(*map(array, (hidden, weight, targets, lse, logit)), 1)
    within(lse, 1 + np.log(52.0), 1e-6 * 6)


def test_a_token_without_target_changes_nothing(isa):
    rng = np.random.default_rng(0)
    hidden, weight, targets = normal(rng, 9, 20), normal(rng, 50, 20), np.array([3, -1, 49, 50, 7, -100, 0, 0, 2**40])
    counted = (targets >= 0) & (targets < 50)
    whole, part = cross_entropy(hidden, weight, targets), cross_entropy(hidden[counted], weight, targets[counted])
    assert whole[0] == part[0]
    assert (whole[2][counted] == part[2]).all()
    assert not whole[2][~counted].any()
    within(whole[3], part[3].astype(np.float64), 1e-5)


def test_unaligned_arrays(isa):
    rng = np.random.default_rng(0)
    hidden, weight, targets = normal(rng, 7, 19), normal(rng, 60, 19), rng.integers(0, 60, 7)
    shifted = [np.frombuffer(b"\0" * 4 + x.tobytes(), np.float32)[1:].reshape(x.shape) for x in (hidden, weight)]
    for one, other in zip(cross_entropy(hidden, weight, targets), cross_entropy(*shifted, targets), strict=True):
        assert np.array_equal(one, other)


def test_gradients_and_loss_alone(isa):
    rng = np.random.default_rng(0)
    hidden, weight, targets = normal(rng, 30, 19), normal(rng, 3000, 19), rng.integers(0, 3000, 30)
    loss, _, dhidden, dweight = cross_entropy(hidden, weight, targets)
    inputs = list(map(array, (hidden, weight, targets)))
    only = np.empty_like(dhidden), np.empty_like(dweight)
    assert _native.linear_cross_entropy(*inputs, 0.0, array(only[0]), None, 1)[0] == loss
    assert _native.linear_cross_entropy(*inputs, 0.0, None, array(only[1]), 1)[0] == loss
    assert np.array_equal(only[0], dhidden)
    assert np.array_equal(only[1], dweight)
    # Without gradients the blocks are shorter: another order of the same sum.
    assert abs(_native.linear_cross_entropy(*inputs, 0.0, None, None, 1)[0] - loss) < 1e-6 * loss


@pytest.mark.parametrize("count", [2, 3, 8])
def test_same_bits_on_any_number_of_threads(isa, count):
    rng = np.random.default_rng(0)
    hidden, weight, targets = normal(rng, 130, 40), normal(rng, 4500, 40), rng.integers(-1, 4500, 130)

    def bits(threads):
        return [np.asarray(x).tobytes() for x in cross_entropy(hidden, weight, targets, 1e-2, threads)]

    assert bits(count) == bits(1)
