"""Native attention as torch sees it: values and gradients against `reference`, layouts, types, tracing, threads.

Letters: B batch, S queries, T keys, H query heads, K key/value heads, D width of a head.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from pyjpllm import ops
from pyjpllm.errors import UserError
from pyjpllm.ops import native, reference
from tests.ops.cases import CASES, run

MINE = [name for name, case in CASES.items() if case.operation == "attention"]
TYPES = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Rounding of a result; FP32's also holds that of the sums (30 of its unit roundoffs, at unit-normal input)."""


def qkv(queries, keys, heads, kv_heads, dim, batch=2, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, queries, heads, dim), (batch, keys, kv_heads, dim), (batch, keys, kv_heads, dim)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def results(function, inputs, **settings):
    out = function(*inputs, **settings)
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, slope)]


def assert_like_reference(inputs, **settings):
    wide = [x.detach().double().requires_grad_() for x in inputs]
    got, want = results(native.attention, inputs, **settings), results(reference.attention, wide, **settings)
    rounding = TYPES[inputs[0].dtype]
    for ours, exact in zip(got, want, strict=True):
        assert ours.dtype == inputs[0].dtype
        # Backward reads the rounded output, and a gradient sums over queries or keys: of the largest, not of each.
        largest = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
        torch.testing.assert_close(ours.double(), exact, atol=4 * rounding * largest, rtol=rounding)


@pytest.mark.parametrize("name", MINE)
def test_equals_the_reference(name):
    with ops.use_backend("reference"):
        expected = run(CASES[name], torch.float32)
    with ops.use_backend("native"):
        actual = run(CASES[name], torch.float32)
    torch.testing.assert_close(actual, expected, atol=4e-6, rtol=4e-6)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("dim", [1, 8, 40, 64, 80, 128, 256])
def test_head_widths(dim, dtype):
    assert_like_reference(qkv(37, 37, 2, 1, dim, dtype=dtype))


@pytest.mark.parametrize(("queries", "keys"), [(0, 0), (0, 5), (1, 1), (1, 203), (3, 200), (97, 97), (130, 301)])
@pytest.mark.parametrize("causal", [True, False])
def test_lengths(queries, keys, causal):
    inputs = qkv(queries, keys, 4, 2, 16)
    if keys == 0:
        assert native.attention(*inputs, causal=causal).shape == (2, 0, 4, 16)
    else:
        assert_like_reference(inputs, causal=causal)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_shape_and_mask(data):
    keys = data.draw(st.integers(1, 140))
    queries = data.draw(st.integers(1, keys))
    groups, kv_heads, batch = (data.draw(st.integers(1, 3)) for _ in range(3))
    inputs = qkv(queries, keys, groups * kv_heads, kv_heads, data.draw(st.integers(1, 33)), batch)
    settings = {"causal": data.draw(st.booleans()), "window": data.draw(st.none() | st.integers(1, 150))}
    if data.draw(st.booleans()):
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
        key_ids = torch.randint(-2, 3, (batch, keys), generator=generator)
        if data.draw(st.booleans()):
            key_ids = key_ids.sort(1).values
        settings |= {"document_ids_BS": key_ids[:, keys - queries :], "key_document_ids_BT": key_ids}
    assert_like_reference(inputs, **settings)


def test_queries_that_see_no_key_give_zeroes():
    inputs = qkv(5, 70, 2, 1, 8)
    ids, key_ids = torch.full((2, 5), 7), torch.zeros(2, 70, dtype=torch.int64)
    for x in results(native.attention, inputs, document_ids_BS=ids, key_document_ids_BT=key_ids):
        assert torch.equal(x, torch.zeros_like(x))


def test_nan_reaches_every_query_that_sees_it_and_no_other_head():
    q, k, v = (x.detach().clone() for x in qkv(150, 150, 2, 2, 8, batch=1))
    plain = native.attention(q, k, v)
    for changed in (k, v):
        kept = changed[0, 60, 0, 0].clone()
        for value in (float("nan"), float("inf")):
            changed[0, 60, 0, 0] = value
            out = native.attention(q, k, v)
            if value != value:
                assert out[0, 60:, 0, 0].isnan().all()
            else:
                assert not out[0, 60:, 0, 0].isfinite().all()
            assert torch.equal(out[:, :, 1], plain[:, :, 1])
        changed[0, 60, 0, 0] = kept
    q[0, 30, 0, 0] = float("nan")
    out = native.attention(q, k, v)
    assert out[0, 30, 0].isnan().all()
    out[0, 30, 0] = plain[0, 30, 0]
    assert torch.equal(out, plain)


def test_large_scores_stay_finite():
    q, k, v = qkv(40, 40, 1, 1, 16)
    for x in results(native.attention, [q.detach().mul(1e4).requires_grad_(), k, v]):
        assert x.isfinite().all()


LAYOUTS = {
    "heads first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "part of a row": lambda x: torch.cat([x, x], 3)[..., x.shape[3] :],
    "last dimension apart": lambda x: torch.stack([x, x], 4).flatten(3, 4)[..., ::2],
    "every second position": lambda x: torch.stack([x, x], 2).flatten(1, 2)[:, ::2],
    "batch repeated": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout):
    inputs = qkv(37, 50, 4, 2, 16)

    def laid_out(*xs):
        return native.attention(*[layout(x) for x in xs])

    def contiguous(*xs):
        return native.attention(*[layout(x).contiguous() for x in xs])

    for one, other in zip(results(laid_out, inputs), results(contiguous, inputs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("causal", [True, False])
def test_same_bits_on_any_number_of_threads(causal):
    threads, inputs = torch.get_num_threads(), qkv(333, 400, 4, 2, 40)
    try:
        torch.set_num_threads(1)
        expected = results(native.attention, inputs, causal=causal)
        for count in (2, 3, 4):
            torch.set_num_threads(count)
            for one, other in zip(results(native.attention, inputs, causal=causal), expected, strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)


def test_opcheck():
    q, k, v = qkv(9, 11, 4, 2, 8)
    ids = torch.arange(11).div(4, rounding_mode="floor").expand(2, 11)
    torch.library.opcheck(torch.ops.jpllm.attention, (q, k, v, None, None, 0.3, True, 0))
    torch.library.opcheck(torch.ops.jpllm.attention, (q, k, v, ids[:, 2:], ids, 0.3, False, 4))
    with torch.no_grad():
        out, lse = torch.ops.jpllm.attention(q, k, v, None, None, 0.3, True, 0)
    plain = [x.detach() for x in (out, q, k, v, out, lse)]
    torch.library.opcheck(torch.ops.jpllm.attention_backward, (*plain, None, None, 0.3, True, 0))


def test_compiled_and_checkpointed_alike():
    inputs = qkv(20, 20, 2, 1, 8)
    plain = results(native.attention, inputs)
    compiled = torch.compile(native.attention, fullgraph=True, backend="aot_eager")
    again = results(lambda *xs: checkpoint(native.attention, *xs, use_reentrant=False), inputs)
    for made in (results(compiled, inputs), again):
        for one, other in zip(made, plain, strict=True):
            assert torch.equal(one, other)


def test_second_derivatives_are_refused():
    q, k, v = qkv(4, 4, 1, 1, 8)
    (slope,) = torch.autograd.grad(native.attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="jpllm::attention_backward: second derivatives are not implemented"):
        slope.sum().backward()


def test_what_the_kernels_do_not_take_is_one_line():
    q, k, v = qkv(4, 4, 1, 1, 8)
    with pytest.raises(UserError, match=r"^attention: .*float64.*set train.kernels = 'torch'$"):
        native.attention(q.double(), k.double(), v.double())
    with pytest.raises(UserError, match="attention: one type is needed"):
        native.attention(q, k.bfloat16(), v)
    with pytest.raises(UserError, match="heads of 1 to 256 channels and these have 257"):
        native.attention(*qkv(4, 4, 1, 1, 257))
