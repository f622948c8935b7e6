"""Softmax attention without the scores in memory, forward and backward.

Letters: B batch, S queries, T keys, H query heads, K key/value heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.errors import UserError
from pyjpllm.ops.native.library import OPS, define, define_gradient, gradient
from pyjpllm.ops.native.tensors import _native, array, check_storage

_MOST_WIDTH = 256


def _heads(x: Tensor) -> Any:
    return array(x if x.shape[-1] <= 1 or x.stride(-1) == 1 else x.contiguous())


def _ids(ids: Tensor | None) -> Any:
    return None if ids is None else array(ids.contiguous())


def _call_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor]:
    """The output [B, S, H, D], and the log-sum-exp of each query's scores [B, H, S] in FP32."""
    out, lse = _fake_attention(q, k, v, query_ids, key_ids, scale, causal, window)
    _native.attention(
        _heads(q),
        _heads(k),
        _heads(v),
        _ids(query_ids),
        _ids(key_ids),
        scale,
        causal,
        window,
        array(out),
        array(lse),
        torch.get_num_threads(),
    )
    return out, lse


def _fake_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor]:
    batch, queries, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((batch, heads, queries), dtype=torch.float32)


def _call_attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    _native.attention_backward(
        _heads(dout),
        _heads(q),
        _heads(k),
        _heads(v),
        _heads(out),
        array(lse.contiguous()),
        _ids(query_ids),
        _ids(key_ids),
        scale,
        causal,
        window,
        array(dq),
        array(dk),
        array(dv),
        torch.get_num_threads(),
    )
    return dq, dk, dv


def _fake_attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, query_ids, key_ids, ctx.scale, ctx.causal, ctx.window = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, query_ids, key_ids, *output)


def _attention_backward(ctx: Any, dout: Tensor, _dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, query_ids, key_ids, out, lse = ctx.saved_tensors
    gradients = OPS.attention_backward(dout, q, k, v, out, lse, query_ids, key_ids, ctx.scale, ctx.causal, ctx.window)
    return *gradients, None, None, None, None, None


define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? query_ids, Tensor? key_ids, float scale, bool causal, int window)"
    " -> (Tensor, Tensor)",
    _call_attention,
    _fake_attention,
)
define_gradient(
    "attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor? query_ids, "
    "Tensor? key_ids, float scale, bool causal, int window) -> (Tensor, Tensor, Tensor)",
    _call_attention_backward,
    _fake_attention_backward,
)
gradient("attention", _attention_backward, _keep_attention)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    check_storage("attention", q=q, k=k, v=v)
    if not 1 <= q.shape[3] <= _MOST_WIDTH:
        raise UserError(
            f"attention: the native kernels take heads of 1 to {_MOST_WIDTH} channels and these have {q.shape[3]}; "
            "set train.kernels = 'torch'"
        )


def attention(
    q_BSHD: Tensor,
    k_BTKD: Tensor,
    v_BTKD: Tensor,
    *,
    causal: bool = True,
    document_ids_BS: Tensor | None = None,
    key_document_ids_BT: Tensor | None = None,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Softmax attention, q [B, S, H, D], k and v [B, T, K, D]; see `pyjpllm.ops.api.attention`.

    float32, bfloat16 or float16, all sums in FP32; the memory beside the results is linear in S and T.
    """
    _check(q_BSHD, k_BTKD, v_BTKD)
    ids, key_ids = document_ids_BS, key_document_ids_BT
    if ids is not None and key_ids is None:
        key_ids = ids
    out, _ = OPS.attention(
        *(q_BSHD, k_BTKD, v_BTKD),
        None if ids is None else ids.to(torch.int64),
        None if key_ids is None else key_ids.to(torch.int64),
        q_BSHD.shape[3] ** -0.5 if scale is None else scale,
        causal,
        0 if window is None else window,
    )
    return cast(Tensor, out)


def _pieces(queries: int, keys: int) -> list[slice]:
    """The kernels take no more queries than keys; where no query's place matters, they may come in pieces."""
    return [slice(start, min(queries, start + keys)) for start in range(0, queries, max(1, keys))]


def _joined(pieces: Sequence[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim)


def _summed(parts: Sequence[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part
    return total.to(parts[0].dtype)


def _rows(ids: Tensor | None, rows: slice) -> Tensor | None:
    return None if ids is None else ids[:, rows].to(torch.int64)


@torch.no_grad()
def attention_block(
    q_BSHD: Tensor,
    k_BTKD: Tensor,
    v_BTKD: Tensor,
    *,
    causal: bool,
    document_ids_BS: Tensor | None,
    key_document_ids_BT: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention to a block of keys, with the log-sum-exp; see `pyjpllm.ops.api.attention_block`."""
    _check(q_BSHD, k_BTKD, v_BTKD)
    key_ids = _rows(key_document_ids_BT, slice(None))
    parts = [
        OPS.attention(q_BSHD[:, rows], k_BTKD, v_BTKD, _rows(document_ids_BS, rows), key_ids, scale, causal, 0)
        for rows in _pieces(q_BSHD.shape[1], k_BTKD.shape[1])
    ]
    outs, lses = zip(*parts, strict=True)
    return _joined(outs, 1), _joined(lses, 2)


@torch.no_grad()
def attention_block_backward(
    dout_BSHD: Tensor,
    q_BSHD: Tensor,
    k_BTKD: Tensor,
    v_BTKD: Tensor,
    out_BSHD: Tensor,
    lse_BHS: Tensor,
    *,
    causal: bool,
    document_ids_BS: Tensor | None,
    key_document_ids_BT: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients' parts of a block of keys; see `pyjpllm.ops.api.attention_block_backward`."""
    _check(q_BSHD, k_BTKD, v_BTKD)
    key_ids = _rows(key_document_ids_BT, slice(None))
    parts = []
    for rows in _pieces(q_BSHD.shape[1], k_BTKD.shape[1]):
        dout, q, out = (x[:, rows] for x in (dout_BSHD, q_BSHD, out_BSHD))
        ids = _rows(document_ids_BS, rows)
        parts.append(
            OPS.attention_backward(dout, q, k_BTKD, v_BTKD, out, lse_BHS[:, :, rows], ids, key_ids, scale, causal, 0)
        )
    dqs, dks, dvs = zip(*parts, strict=True)
    return _joined(dqs, 1), _summed(dks), _summed(dvs)
