"""The loss with FP16 sums in chunks: its products have the bits of `gemm` with the same chunk, and no sum overflows.

Letters: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyjpllm import _native
from tests.kernels.arrays import array
from tests.kernels.halves import same

quick = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CHUNKS = [16, 32, 64, 128]


def halves(rng, rows, cols, scale=1.0):
    return (scale * rng.standard_normal((rows, cols))).astype(np.float16)


def product(a, b, chunk):
    """FP32 sums, by `gemm`, whose bits test_fp16_chunk.py proves."""
    c = np.empty((a.shape[0], b.shape[1]), np.float32)
    _native.gemm(array(a), array(b), array(c), None, False, 1, math="fp16-chunk", math_chunk=chunk)
    return c


def logsumexp(hidden, weight, targets, chunk, threads=1):
    lse, logit = np.empty(len(hidden), np.float32), np.empty(len(hidden), np.float32)
    inputs = map(array, (hidden, weight, targets, lse, logit))
    _native.linear_logsumexp(*inputs, threads, "fp16-chunk", chunk)
    return lse, logit


def logsumexp_gradients(hidden, weight, targets, lse, dlse, dtarget, chunk, threads=1):
    made = np.empty(hidden.shape, np.float16), np.empty(weight.shape, np.float32)
    inputs = map(array, (hidden, weight, targets, lse, dlse, dtarget, *made))
    _native.linear_logsumexp_backward(*inputs, threads, "fp16-chunk", chunk)
    return made


def cross_entropy(hidden, weight, targets, chunk, z_loss=0.0, threads=1):
    """(loss, z-loss, dhidden, dweight)."""
    made = np.empty(hidden.shape, np.float16), np.empty(weight.shape, np.float32)
    arrays = list(map(array, (hidden, weight, targets, *made)))
    sums = _native.linear_cross_entropy(*arrays[:3], z_loss, *arrays[3:], threads, "fp16-chunk", chunk)
    return *sums, *made


def gradients(dlogits, hidden, weight, slope, chunk):
    """Both, by `gemm` of dlogits that are scaled as src/loss/halves.h says; ``slope`` bounds a token's in sum."""
    exponent = lambda x: int(np.frexp(np.float64(np.abs(x).max()))[1])  # noqa: E731 - |x| < 2^exponent
    g = exponent(slope)
    of_hidden = 2.0 ** (15 - g - max(exponent(weight), 0))
    of_weight = 2.0 ** (15 - g - max(exponent(hidden) + int(np.log2(chunk)), 0))
    dhidden = product((dlogits * of_hidden).astype(np.float16), weight, chunk) / np.float32(of_hidden)
    dweight = product((dlogits * of_weight).astype(np.float16).T, hidden, chunk) / np.float32(of_weight)
    return dhidden.astype(np.float16), dweight


@quick
@given(
    st.integers(1, 40), st.sampled_from([1, 50, 1023, 1100, 2500]), st.integers(0, 70), st.sampled_from(CHUNKS),
    st.integers(1, 3),
)  # fmt: skip
def test_logits_are_the_bits_of_the_product(isa, n, v, d, chunk, threads):
    rng = np.random.default_rng(n + v + d)
    hidden, weight, targets = halves(rng, n, d), halves(rng, v, d), rng.integers(0, v, n)
    same(logsumexp(hidden, weight, targets, chunk, threads)[1], product(hidden, weight.T, chunk)[range(n), targets])


@quick
@given(
    *(st.integers(1, 40), st.sampled_from([1, 50, 1100, 2500]), st.integers(1, 70), st.sampled_from(CHUNKS)),
    *(st.integers(1, 3), st.sampled_from([1e-6, 1.0, 3000.0])),
)
def test_gradients_of_the_targets_logits_are_the_bits_of_products(isa, n, v, d, chunk, threads, scale):
    rng = np.random.default_rng(n + v + d)
    hidden, weight, targets = halves(rng, n, d), halves(rng, v, d), rng.integers(0, min(v, 3), n)
    dtarget, none = (scale * rng.standard_normal(n)).astype(np.float32), np.zeros(n, np.float32)
    got = logsumexp_gradients(hidden, weight, targets, none, none, dtarget, chunk, threads)
    dlogits = dtarget[:, None] * (targets[:, None] == np.arange(v))
    for ours, expected in zip(got, gradients(dlogits, hidden, weight, dtarget, chunk), strict=True):
        same(ours, expected)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("flat", ["hidden", "weight"])
def test_gradients_of_cross_entropy_are_the_bits_of_products(isa, chunk, flat):
    """Where one operand is zero all logits are 0, and a softmax over 4096 words is exact in FP32."""
    rng = np.random.default_rng(0)
    n, v, d = 300, 4096, 24
    hidden, weight, targets = halves(rng, n, d), halves(rng, v, d), rng.integers(-1, v, n)
    {"hidden": hidden, "weight": weight}[flat][:] = 0
    counts = (targets >= 0)[:, None]
    dlogits = counts * (np.float32(1 / v) - (targets[:, None] == np.arange(v)))
    for threads in (1, 3):
        _, _, *got = cross_entropy(hidden, weight, targets, chunk, threads=threads)
        for ours, expected in zip(got, gradients(dlogits, hidden, weight, 2.0, chunk), strict=True):
            same(ours, expected)


def exact(hidden, weight, targets, slope):
    """Gradients in FP64 and the sums of their absolute terms; slope multiplies the softmax."""
    h, w = hidden.astype(np.float64), weight.astype(np.float64)
    logits = h @ w.T
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax *= slope / softmax.sum(1, keepdims=True)
    onehot = targets[:, None] == np.arange(len(w))
    dlogits, size = softmax - onehot, softmax + onehot
    return dlogits @ w, dlogits.T @ h, size @ np.abs(w), size.T @ np.abs(h)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_error_is_within_the_stated_bound(isa, chunk):
    rng = np.random.default_rng(1)
    n, v, d = 200, 3000, 32
    hidden, weight, targets = halves(rng, n, d), halves(rng, v, d, 0.05), rng.integers(0, v, n)
    _, _, dhidden, dweight = cross_entropy(hidden, weight, targets, chunk)
    want_dhidden, want_dweight, of_hidden, of_weight = exact(hidden, weight, targets, 1.0)
    # A logit's error, FP16_CHUNK's bound with |hidden| |weight|, is the exponential's relative one.
    reach = np.abs(hidden).astype(np.float64) @ np.abs(weight).astype(np.float64).T
    logit = chunk * 2.0**-11 * reach.max() + 2.0**-14 * d * (1 + np.abs(hidden).max() + np.abs(weight).max())
    relative = (1 + 2 * logit) * (1 + 2.0**-11) * (1 + chunk * 2.0**-11) - 1 + 2.0**-11
    # What is flushed: 2^-14 of a dlogit or of a sum, over the power of two that it is stored with.
    lost = 2.0**-14 * v * (1 + 1 + np.abs(weight).max()) / 2.0**13
    assert (np.abs(dhidden - want_dhidden) <= relative * of_hidden + lost).all()
    lost = 2.0**-14 * n * (1 + 1 + np.abs(hidden).max()) / 2.0 ** (13 - 3 - np.log2(chunk))
    assert (np.abs(dweight - want_dweight) <= relative * of_weight + lost).all()
    # Roundings add up like a walk: most of the gradient's direction is kept.
    for got, want in ((dhidden, want_dhidden), (dweight, want_dweight)):
        assert np.linalg.norm(got - want) < 0.01 * np.linalg.norm(want)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_no_sum_overflows(isa, chunk):
    """All tokens are wrong about the same word, with as large numbers on all sides as FP16 has room for in a logit."""
    hidden, weight = np.full((300, 4), 60.0, np.float16), np.full((1000, 4), -60.0, np.float16)
    weight[0] = 60.0
    targets = np.full(300, 1)
    _, _, dhidden, dweight = cross_entropy(hidden, weight, targets, chunk, 1e-6)
    want_dhidden, want_dweight, _, _ = exact(hidden, weight, targets, 1 + 2e-6 * 14400)
    np.testing.assert_allclose(dhidden, want_dhidden, rtol=2.0**-10)
    np.testing.assert_allclose(dweight[:2], want_dweight[:2], rtol=chunk * 2.0**-11)
    lse = logsumexp(hidden, weight, targets, chunk)[0]
    dlse, dtarget = np.full(300, 65536.0, np.float32), np.full(300, -65536.0, np.float32)
    dweight = logsumexp_gradients(hidden, weight, targets, lse, dlse, dtarget, chunk)[1]
    np.testing.assert_allclose(dweight[:2], 65536 * exact(hidden, weight, targets, 1)[1][:2], rtol=chunk * 2.0**-11)


def test_zeroes_and_what_is_not_finite(isa):
    hidden, weight, targets = np.zeros((5, 3), np.float16), np.zeros((7, 3), np.float16), np.arange(5)
    zero = np.zeros(5, np.float32)
    for made in logsumexp_gradients(hidden, weight, targets, zero, zero, zero, 32):
        assert not made.any()
    hidden[2, 1], weight[:] = np.inf, 1
    _, _, dhidden, dweight = cross_entropy(hidden, weight, targets, 32)
    assert not np.isfinite(dhidden[2]).any()
    assert not np.isfinite(dweight).all()


def test_only_fp16_is_taken():
    x, targets = np.zeros((4, 4), np.float32), np.zeros(4, np.int64)
    with pytest.raises(ValueError, match="linear_cross_entropy: math fp16-chunk takes float16 hidden and weight alone"):
        _native.linear_cross_entropy(
            *map(array, (x, x, targets)), 0.0, None, None, 1, math="fp16-chunk"
        )  # fmt: skip
