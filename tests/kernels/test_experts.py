"""Routing, the order by expert, weighted sums of rows and grouped products, against FP64 or bit for bit.

Letters: N tokens, E experts, k experts of a token, M = N k rows, D width, I inputs, O outputs.
"""

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


@pytest.fixture(autouse=True)
def _usual_caches():
    yield
    _native.set_past_caches(-1)


@quick
@given(types, st.integers(0, 20), st.integers(1, 40), st.data(), st.booleans(), st.booleans(), st.booleans(), threads)
def test_route(isa, dtype, n, e, data, sigmoid, normalize, biased, count):
    k = data.draw(st.integers(1, e))
    logits, dweights = made(dtype, n, e, gap=1), made(torch.float32, n, k, seed=1)
    bias = made(torch.float32, e, seed=2) if biased else None
    experts, weights = torch.empty(n, k, dtype=torch.int64), torch.empty(n, k)
    dlogits = torch.empty_like(logits)
    _native.route(
        array(logits), None if bias is None else array(bias), sigmoid, normalize, array(experts), array(weights), count
    )
    x = logits.double().requires_grad_()
    scores = x.sigmoid() if sigmoid else x.softmax(-1)
    if bias is None:
        assert torch.equal(experts, logits.double().sort(dim=-1, descending=True, stable=True).indices[:, :k])
    else:  # keys that differ by less than FP32 tells apart may change places
        keys = (scores + bias.double()).detach()
        close(keys.gather(1, experts).float(), keys.sort(-1, descending=True).values[:, :k], 1e-6)
        assert all(len(set(row)) == k for row in experts.tolist())
    want = scores.gather(1, experts)
    want = want / want.sum(-1, keepdim=True) if normalize else want
    # Each score is an exp of a rounded number and a quotient.
    close(weights, want.detach(), 2e-6 * want.detach() + 1e-37)
    _native.route_backward(
        *map(array, (dweights, logits)), sigmoid, normalize, *map(array, (experts, weights, dlogits)), count
    )
    (grad,) = torch.autograd.grad(want, x, dweights.double())
    close(dlogits, grad, 1e-5 * dweights.double().abs().sum(-1, keepdim=True) * scores.detach() + 1e-7)


def test_a_nan_gives_some_experts_and_no_weight(isa):
    logits = torch.tensor([[0.0, float("nan"), 2.0, 1.0], [float("nan"), 0.0, 2.0, 1.0]])
    experts, weights = torch.empty(2, 3, dtype=torch.int64), torch.empty(2, 3)
    _native.route(array(logits), None, False, False, array(experts), array(weights), 1)
    assert all(len(set(row)) == 3 and set(row) <= set(range(4)) for row in experts.tolist())
    assert weights.isnan().all()


@quick
@given(
    *(types, st.integers(0, 20), st.integers(1, 5), st.sampled_from([0, 1, 17, 64, 130]), st.integers(0, 3)),
    *(threads, st.booleans(), st.booleans()),
)
def test_combine(isa, dtype, n, k, d, gap, count, far, weighted):
    _native.set_past_caches(0 if far else -1)
    m = n * k
    position = torch.randperm(m, generator=torch.Generator().manual_seed(n)).view(n, k)
    x, dy, y, dx = (made(dtype, rows, d, gap=gap, seed=i) for i, rows in enumerate((m, n, n, m)))
    weights, dweights = made(torch.float32, n, k, seed=4), torch.ones(n, k)
    _native.combine(array(x), array(position), array(weights) if weighted else None, array(y), count)
    x64, dy64, w64 = x.double()[position], dy.double()[:, None], weights.double()[..., None]
    terms = x64 * w64 if weighted else x64
    close(y, terms.sum(1), (k + 1) * EPS * terms.abs().sum(1))
    _native.combine_backward(*map(array, (dy, x, position, weights, dx, dweights)), count)
    close(dx[position], dy64 * w64, EPS * (dy64 * w64).abs())
    close(dweights, (x64 * dy64).sum(-1), (d / 8 + 4) * EPS * (x64 * dy64).abs().sum(-1))


def test_a_position_outside_is_an_index_error(isa):
    x, y, weights = torch.ones(4, 3), torch.ones(2, 3), torch.ones(2, 2)
    for wrong in (-1, 4):
        position = torch.tensor([[0, 1], [2, wrong]])
        with pytest.raises(IndexError):
            _native.combine(array(x), array(position), array(weights), array(y), 2)
        with pytest.raises(IndexError):
            _native.combine_backward(*map(array, (y, x, position, weights, x, weights)), 2)


SIZES = st.lists(st.sampled_from([0, 0, 1, 2, 5, 17, 40, 90]), min_size=1, max_size=6)


def alone(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, **math: str | int) -> torch.Tensor:
    """What the plain product gives."""
    out = torch.empty_like(c).contiguous()
    _native.gemm(array(a), array(b), array(out), None, False, 1, **math)
    return out


@quick
@given(types, SIZES, st.sampled_from([1, 7, 33, 70]), st.sampled_from([1, 9, 48]), st.booleans(), threads)
def test_grouped_products_are_the_bits_of_single_ones(isa, dtype, sizes, i, o, turned, count):
    n, e = sum(sizes), len(sizes)
    x, w, dy = made(dtype, n, i), made(dtype, e, o, i, seed=1), made(dtype, n, o, seed=2)
    if turned:
        x, w = x.t().contiguous().t(), w.transpose(1, 2).contiguous().transpose(1, 2)
    y, dx, dw = (torch.full(s, 7.0, dtype=dtype) for s in ((n, o), (n, i), (e, o, i)))
    _native.grouped_gemm(array(x), array(w.transpose(1, 2)), array(y), sizes, count)
    _native.grouped_gemm(array(dy), array(w), array(dx), sizes, count)
    _native.grouped_gemm(array(dy.t()), array(x), array(dw), sizes, count)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    for g, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        at = slice(end - size, end)
        assert torch.equal(y[at], alone(x[at], w[g].t(), y[at]))
        assert torch.equal(dx[at], alone(dy[at], w[g], dx[at]))
        assert torch.equal(dw[g], alone(dy[at].t(), x[at], dw[g]))


@pytest.mark.parametrize("chunk", [16, 64])
def test_grouped_products_in_chunks_of_fp16_are_the_bits_of_single_ones(isa, chunk):
    sizes, math = [5, 0, 70, 33], {"math": "fp16-chunk", "math_chunk": chunk}
    x, w = made(torch.float16, sum(sizes), 90), made(torch.float16, len(sizes), 90, 40, seed=1)
    y, dw = torch.empty(sum(sizes), 40, dtype=torch.float16), torch.empty(len(sizes), 90, 40, dtype=torch.float16)
    _native.grouped_gemm(array(x), array(w), array(y), sizes, 2, **math)
    _native.grouped_gemm(array(x.t()), array(y), array(dw), sizes, 2, **math)
    for g, (rows, part) in enumerate(zip(x.split(sizes), y.split(sizes), strict=True)):
        assert torch.equal(part, alone(rows, w[g], part, **math))
        assert torch.equal(dw[g], alone(rows.t(), part, dw[g], **math))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_batch_of_products(isa, dtype):
    a, b, c = made(dtype, 5, 12, 30), made(dtype, 5, 30, 20, seed=1), torch.empty(5, 12, 20, dtype=dtype)
    _native.grouped_gemm(array(a), array(b), array(c), None, 2)
    assert all(torch.equal(c[g], alone(a[g], b[g], c[g])) for g in range(5))


def test_large_and_small_groups_on_many_threads(isa):
    sizes = [700, 3, 0, 1, 90, 500, 2]
    x, w = made(torch.float32, sum(sizes), 96), made(torch.float32, len(sizes), 96, 160, seed=1)
    results = []
    for count in (1, 2, 5):
        y = torch.empty(sum(sizes), 160)
        _native.grouped_gemm(array(x), array(w), array(y), sizes, count)
        results.append(y)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_grouped_products_in_chunks_are_of_fp16():
    x, w, y = torch.ones(4, 3), torch.ones(2, 3, 5), torch.ones(4, 5)
    with pytest.raises(ValueError, match="grouped_gemm: math fp16-chunk takes float16 a, b and up alone"):
        _native.grouped_gemm(*map(array, (x, w, y)), [2, 2], 1, math="fp16-chunk")


BAD = {
    "dimensions": (lambda x, w, y: (x, x, y, [4]), "3, 3, 3 dimensions, or with sizes 2, 3, 2 or 2, 2, 3"),
    "no sizes": (lambda x, w, y: (x, w, y, None), "with sizes 2, 3, 2"),
    "sum": (lambda x, w, y: (x, w, y, [1, 2]), "sum of sizes and what they divide differ: 3 and 4"),
    "negative": (lambda x, w, y: (x, w, y, [5, -1]), "a group has a negative size: -1"),
    "groups": (lambda x, w, y: (x, w, y, [1, 1, 2]), "numbers of groups differ: 3 and 2"),
    "inner": (lambda x, w, y: (y, w, y, [2, 2]), "columns of a and the rows of b differ: 5 and 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_grouped_products_that_do_not_fit_are_refused(name):
    arguments, message = BAD[name]
    *tensors, sizes = arguments(torch.ones(4, 3), torch.ones(2, 3, 5), torch.ones(4, 5))
    with pytest.raises(ValueError, match=f"grouped_gemm: .*{message}"):
        _native.grouped_gemm(*map(array, tensors), sizes, 1)
