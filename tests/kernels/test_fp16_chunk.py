"""Products with chunked FP16 sums: the bits of the same arithmetic in NumPy, on every instruction set and thread count.

kernels/tests/fp16_test.cpp has more inputs, and the same hash of all results under the emulated A64FX.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyjpllm import _native
from tests.kernels.arrays import array
from tests.kernels.halves import chunked_sums, flushed, same

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CHUNKS = [16, 32, 64, 128]


def gemm(a, b, c, *, chunk=32, threads=2, accumulate=False, bias=None, **more):
    more = {name: array(x) for name, x in more.items()}
    bias = None if bias is None else array(bias)
    _native.gemm(
        array(a), array(b), array(c), bias, accumulate, threads, math="fp16-chunk", math_chunk=chunk, **more
    )  # fmt: skip
    return c


def halves(rng, rows, cols, scale, order):
    x = (scale * rng.standard_normal((cols, rows) if order == "F" else (rows, cols))).astype(np.float16)
    return x.T if order == "F" else x


@quick
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 130),
    k=st.one_of(st.integers(0, 70), st.sampled_from([255, 300, 530])),
    chunk=st.sampled_from(CHUNKS),
    orders=st.tuples(st.sampled_from("CF"), st.sampled_from("CF"), st.sampled_from("CF")),
    scales=st.tuples(st.sampled_from([1e-3, 0.03, 1.0, 100.0]), st.sampled_from([1e-3, 0.03, 1.0, 100.0])),
    threads=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_bits_are_those_of_the_definition(isa, m, n, k, chunk, orders, scales, threads, seed):
    rng = np.random.default_rng(seed)
    a, b = halves(rng, m, k, scales[0], orders[0]), halves(rng, k, n, scales[1], orders[1])
    c = np.full((m, n), np.nan, np.float32, order=orders[2])
    same(gemm(a, b, c, chunk=chunk, threads=threads), chunked_sums(a, b, chunk))


@pytest.mark.parametrize("bits", ["all", "few", "small"])
def test_bits_of_ties_denormals_infinities_and_nan(isa, bits):
    rng = np.random.default_rng(3)
    mask = {"all": 0xFFFF, "few": 0x9FC0, "small": 0xBBFF}[bits]
    a, b = ((rng.integers(0, 1 << 16, shape) & mask).astype(np.uint16).view(np.float16) for shape in [(40, 7), (7, 90)])
    same(gemm(a, b, np.empty((40, 90), np.float32)), chunked_sums(a, b, 32))


def test_sums_go_on_from_an_fp32_c_and_are_rounded_once_to_an_fp16_one(isa):
    rng = np.random.default_rng(5)
    a, b = halves(rng, 21, 600, 1.0, "C"), halves(rng, 600, 50, 1.0, "F")
    start, bias = rng.standard_normal((21, 50)).astype(np.float32), rng.standard_normal(50).astype(np.float32)
    same(gemm(a, b, start.copy(), accumulate=True), chunked_sums(a, b, 32, start))
    want = chunked_sums(a, b, 32) + bias
    same(gemm(a, b, np.empty((21, 50), np.float16), bias=bias), want.astype(np.float16))


def test_both_products_of_a_gate_are_summed_so(isa):
    rng = np.random.default_rng(6)
    a, b, up = (halves(rng, *shape, 1.0, "C") for shape in [(19, 130), (130, 70), (130, 70)])
    kept = [np.empty((19, 70), np.float32) for _ in range(2)]
    c = gemm(a, b, np.empty((19, 70), np.float32), up=up, gate_out=kept[0], up_out=kept[1])
    same(kept[0], chunked_sums(a, b, 32))
    same(kept[1], chunked_sums(a, up, 32))
    x, y = (z.astype(np.float64) for z in kept)
    np.testing.assert_allclose(c, x / (1 + np.exp(-x)) * y, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("k", [64, 1024])
def test_error_is_within_the_stated_bound(isa, k, chunk):
    rng = np.random.default_rng(7)
    a, b = halves(rng, 32, k, 1.0, "C"), halves(rng, k, 48, 1.0, "C")
    x, y = a.astype(np.float64), b.astype(np.float64)
    size = np.abs(x) @ np.abs(y)
    lost = 2.0**-14 * (k + np.abs(x).sum(1)[:, None] + np.abs(y).sum(0)[None])
    bound = chunk * 2.0**-11 * size + lost + k * 2.0**-24 * size
    error = np.abs(gemm(a, b, np.empty((32, 48), np.float32), chunk=chunk) - x @ y)
    assert (error <= bound).all()
    # Roundings add up like a walk; each is at most 2^-11 of its chunk's sum so far, which is a walk itself.
    typical = 2.0**-11 * np.sqrt(chunk / 2) * np.sqrt(flushed(x) ** 2 @ flushed(y) ** 2)
    assert np.mean(error) < np.mean(typical)


def test_only_fp16_operands_are_taken(isa):
    rng = np.random.default_rng(8)
    a, b = halves(rng, 4, 4, 1.0, "C"), np.zeros((4, 4), np.float32)
    with pytest.raises(ValueError, match="fp16-chunk takes float16 a, b and up alone"):
        gemm(a, b, np.empty((4, 4), np.float32))
    with pytest.raises(ValueError, match="math_chunk must be 16, 32, 64 or 128, is 48"):
        gemm(a, a, np.empty((4, 4), np.float32), chunk=48)
    with pytest.raises(ValueError, match="math must be exact, fp16-chunk or int16, is half"):
        _native.gemm(array(a), array(a), array(b), None, False, 1, math="half")
