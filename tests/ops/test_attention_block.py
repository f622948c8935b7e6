"""Attention by blocks of keys: put together they are the whole attention, and so are their gradients.

The whole is `ops.attention` of the NumPy reference in FP64, whose own formula and gradients test_operations proves.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyjpllm import ops
from pyjpllm.ops import torch_attention_block

# A block's gradient takes two roundings of its type more than a whole one's, at sums of at most a few hundred terms.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 6e-2}
KINDS = [("reference", torch.float64), ("torch", torch.float64), ("torch", torch.float32), ("torch", torch.bfloat16)]
if "native" in ops.available_backends():
    KINDS += [("native", torch.float32), ("native", torch.bfloat16)]


def tensors(batch: int, queries: int, keys: int, heads: int, kv_heads: int, dim: int, seed: int = 0) -> list[Tensor]:
    """q, k, v, and the gradient of the output, in FP64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, queries, heads, dim), (batch, keys, kv_heads, dim), (batch, keys, kv_heads, dim)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [*shapes, shapes[0]]]


def whole(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, seen: dict[str, Any], causal: bool, scale: float
) -> list[Tensor]:
    """out, dq, dk, dv; more queries than keys go through one by one, as `attention` takes no such thing."""
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    with ops.use_backend("reference"):
        ids, key_ids = seen.get("document_ids_BS"), seen.get("key_document_ids_BT")
        step = q.shape[1] if causal else 1
        outs = []
        for start in range(0, q.shape[1], step):
            rows = slice(start, start + step)
            given = {} if ids is None else {"document_ids_BS": ids[:, rows], "key_document_ids_BT": key_ids}
            outs.append(ops.attention(q[:, rows], k, v, causal=causal, scale=scale, **given))
        out = torch.cat(outs, 1)
        return [out.detach(), *torch.autograd.grad(out, (q, k, v), dout)]


def blockwise(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, cuts: list[int], ids: Tensor | None, key_ids: Tensor | None
) -> list[Tensor]:
    """The same from blocks of keys between ``cuts``; none is causal."""
    pieces = [slice(start, stop) for start, stop in pairwise(cuts)]

    def seen(rows: slice) -> dict[str, Any]:
        if ids is None or key_ids is None:
            return {}
        return {"document_ids_BS": ids, "key_document_ids_BT": key_ids[:, rows]}

    parts = [ops.attention_block(q, k[:, rows], v[:, rows], **seen(rows)) for rows in pieces]
    lse = torch.stack([part[1] for part in parts]).logsumexp(0)
    shares = [(part[1] - lse).exp().nan_to_num(0.0).transpose(1, 2)[..., None] for part in parts]
    out = sum(part[0].to(lse.dtype) * share for part, share in zip(parts, shares, strict=True)).to(q.dtype)
    grads = [ops.attention_block_backward(dout, q, k[:, rows], v[:, rows], out, lse, **seen(rows)) for rows in pieces]
    dq = sum(grad[0].to(lse.dtype) for grad in grads)
    return [out, dq, torch.cat([grad[1] for grad in grads], 1), torch.cat([grad[2] for grad in grads], 1)]


def close(got: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(("backend", "dtype"), KINDS)
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (11, 4), (3, 70), (70, 33), (1, 1)])
def test_a_block_is_the_attention_to_it(
    backend: str, dtype: torch.dtype, queries: int, keys: int, documents: bool
) -> None:
    inputs = [x.to(dtype) for x in tensors(2, queries, keys, 6, 2, 8)]
    seen = {}
    if documents:  # some queries' document has no key here
        seen["document_ids_BS"] = torch.arange(queries).expand(2, -1) // 3 * 2
        seen["key_document_ids_BT"] = torch.arange(keys).expand(2, -1) // 4
    q, k, v, dout = inputs
    for causal in (False, True) if queries <= keys else (False,):
        expected = whole(*(x.double() for x in inputs), seen, causal, 0.4)
        with ops.use_backend(backend):
            out, lse = ops.attention_block(q, k, v, causal=causal, scale=0.4, **seen)
            grads = ops.attention_block_backward(dout, q, k, v, out, lse, causal=causal, scale=0.4, **seen)
        assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert [x.dtype for x in (out, *grads)] == [dtype] * 4
        close([out, *grads], expected, dtype)


@pytest.mark.parametrize(("backend", "dtype"), KINDS)
def test_blocks_make_up_the_whole(backend: str, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in tensors(2, 40, 60, 4, 2, 16)]
    ids, key_ids = torch.arange(40).expand(2, -1) // 7, torch.arange(60).expand(2, -1) // 12
    for seen in ((None, None), (ids, key_ids)):
        given = {} if seen[0] is None else {"document_ids_BS": seen[0], "key_document_ids_BT": seen[1]}
        expected = whole(*(x.double() for x in inputs), given, False, 16**-0.5)
        with ops.use_backend(backend):
            close(blockwise(*inputs, [0, 13, 13, 45, 60], *seen), expected, dtype)


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 2),
    queries=st.integers(0, 9),
    keys=st.integers(1, 9),
    kv_heads=st.integers(1, 2),
    groups=st.integers(1, 3),
    cut=st.integers(0, 9),
    seed=st.integers(0, 1000),
)
def test_any_sizes(batch: int, queries: int, keys: int, kv_heads: int, groups: int, cut: int, seed: int) -> None:
    inputs = tensors(batch, queries, keys, kv_heads * groups, kv_heads, 3, seed)
    generator = torch.Generator().manual_seed(seed)
    ids, key_ids = (torch.randint(3, (batch, n), generator=generator).sort(1).values for n in (queries, keys))
    if not queries:
        out, lse = ops.attention_block(*inputs[:3])
        assert (out.shape, lse.shape) == (inputs[0].shape, (batch, kv_heads * groups, 0))
        return
    expected = whole(*inputs, {"document_ids_BS": ids, "key_document_ids_BT": key_ids}, False, 3**-0.5)
    for backend in ("reference", "torch"):
        with ops.use_backend(backend):
            close(blockwise(*inputs, [0, min(cut, keys), keys], ids, key_ids), expected, torch.float64)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch, causal: bool, products: bool) -> None:
    inputs = tensors(2, 20, 24, 4, 2, 8)
    ids, key_ids = torch.arange(20).expand(2, -1) // 6, torch.arange(24).expand(2, -1) // 6
    monkeypatch.setattr(torch_attention_block, "PIECE_BYTES", 2 * 4 * 24 * 8 * 3)
    if products:  # what a GPU computes by
        monkeypatch.setattr(torch_attention_block, "_flash", torch_attention_block._products)
        monkeypatch.setattr(torch_attention_block, "_flash_backward", torch_attention_block._products_backward)
    q, k, v, dout = inputs
    for seen in ({}, {"document_ids_BS": ids, "key_document_ids_BT": key_ids}):
        expected = whole(*inputs, seen, causal, 0.3)
        out, lse = ops.attention_block(q, k, v, causal=causal, scale=0.3, **seen)
        grads = ops.attention_block_backward(dout, q, k, v, out, lse, causal=causal, scale=0.3, **seen)
        close([out, *grads], expected, torch.float64)


def test_shapes_on_meta() -> None:
    q, k, v, dout = (x.to("meta", torch.bfloat16) for x in tensors(2, 6, 4, 6, 2, 8))
    ids, key_ids = (
        torch.empty(2, 6, dtype=torch.int64, device="meta"),
        torch.empty(2, 4, dtype=torch.int64, device="meta"),
    )
    seen = {"document_ids_BS": ids, "key_document_ids_BT": key_ids}
    out, lse = ops.attention_block(q, k, v, **seen)
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == (q.shape, q.dtype, (2, 6, 6), torch.float32)
    grads = ops.attention_block_backward(dout, q, k, v, out, lse, **seen)
    assert [(x.shape, x.dtype) for x in grads] == [(x.shape, x.dtype) for x in (q, k, v)]


def test_bad_arguments_are_refused() -> None:
    q, k, v, dout = tensors(1, 4, 3, 4, 2, 2)
    with pytest.raises(ValueError, match="attention_block: causal, 4 queries are the last positions of only 3 keys"):
        ops.attention_block(q, k, v, causal=True)
    with pytest.raises(ValueError, match="document ids are needed for both"):
        ops.attention_block(q, k, v, document_ids_BS=torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"attention_block: q \[B,S,H,D\]"):
        ops.attention_block(q, k, v[:, :2])
    with pytest.raises(ValueError, match=r"lse \[B,H,S\] are needed"):
        ops.attention_block_backward(dout, q, k, v, q, torch.zeros(1, 4, 3))
