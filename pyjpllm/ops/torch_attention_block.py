"""Attention of some queries to some keys, as a part of a larger attention, in ATen. Letters as in `pyjpllm.ops.api`.

On the CPU by ATen's flash kernels, elsewhere by matrix products. Queries go through in pieces (s of S), so that a mask,
or the scores of a piece, stay within `PIECE_BYTES`. G = H / K query heads share a key head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

PIECE_BYTES = 1 << 25
"""Memory of one piece's scores; there are a few tensors of this size at a time."""


class _Piece(NamedTuple):
    """Queries ``rows``, which see keys before ``keys``; ``hidden`` are those of them that they do not see."""

    rows: slice
    keys: int
    hidden: Tensor | None  # bool, [s, T] or [B, 1, s, T]
    causal: bool  # instead of a mask: the queries are as many as the keys


def _pieces(
    q_BSHD: Tensor, keys: int, causal: bool, ids_BS: Tensor | None, key_ids_BT: Tensor | None
) -> Iterator[_Piece]:
    batch, queries, heads, _ = q_BSHD.shape
    if q_BSHD.is_cpu and ids_BS is None and (queries == keys or not causal):
        yield _Piece(slice(0, queries), keys, None, causal)
        return
    shared = 1 if q_BSHD.is_cpu else heads  # a mask has no heads
    step = max(1, PIECE_BYTES // (batch * shared * keys * torch.promote_types(q_BSHD.dtype, torch.float32).itemsize))
    for start in range(0, queries, step):
        stop = min(queries, start + step)
        seen_keys = keys - queries + stop if causal else keys
        hidden: Tensor | None = None
        if causal:
            places = torch.arange(keys - queries + start, seen_keys, device=q_BSHD.device)
            hidden = torch.arange(seen_keys, device=q_BSHD.device) > places.unsqueeze(1)
        if ids_BS is not None and key_ids_BT is not None:
            other = (ids_BS[:, start:stop, None] != key_ids_BT[:, None, :seen_keys]).unsqueeze(1)
            hidden = other if hidden is None else other | hidden
        yield _Piece(slice(start, stop), seen_keys, hidden, False)


def _flash(q_BHsD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, piece: _Piece, scale: float) -> tuple[Tensor, Tensor]:
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mask = _mask(piece, q_BHsD.dtype)
    out, lse = forward(q_BHsD, k_BKTD, v_BKTD, 0.0, piece.causal, attn_mask=mask, scale=scale)
    if piece.hidden is not None:  # where a query sees no key the kernel's is 0
        lse = lse.masked_fill(piece.hidden.all(-1), float("-inf"))
    return out, lse


def _flash_backward(
    dout_BHsD: Tensor,
    q_BHsD: Tensor,
    k_BKTD: Tensor,
    v_BKTD: Tensor,
    out_BHsD: Tensor,
    lse_BHs: Tensor,
    piece: _Piece,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    tensors = (dout_BHsD, q_BHsD, k_BKTD, v_BKTD, out_BHsD, _nowhere_infinite(lse_BHs))
    dq, dk, dv = backward(*tensors, 0.0, piece.causal, attn_mask=_mask(piece, q_BHsD.dtype), scale=scale)
    return dq, dk, dv


def _mask(piece: _Piece, dtype: torch.dtype) -> Tensor | None:
    if piece.hidden is None:
        return None
    return torch.zeros_like(piece.hidden, dtype=dtype).masked_fill_(piece.hidden, float("-inf"))


def _grouped(x_BHsD: Tensor, kv_heads: int) -> Tensor:
    """[B, K * G, s, D] -> [B, K, G, s, D] in the type of sums."""
    batch, heads, length, dim = x_BHsD.shape
    x_BKGsD = x_BHsD.reshape(batch, kv_heads, heads // kv_heads, length, dim)
    return x_BKGsD.to(torch.promote_types(x_BHsD.dtype, torch.float32))


def _scores(q_BKGsD: Tensor, k_BKTD: Tensor, piece: _Piece, scale: float) -> Tensor:
    """[B, K, G, s, T], minus infinity where a key is not seen."""
    scores = (q_BKGsD * scale) @ k_BKTD.unsqueeze(2).to(q_BKGsD.dtype).transpose(-1, -2)
    if piece.hidden is None:
        return scores
    return scores.masked_fill_(piece.hidden.unsqueeze(-3), float("-inf"))


def _products(q_BHsD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, piece: _Piece, scale: float) -> tuple[Tensor, Tensor]:
    scores = _scores(_grouped(q_BHsD, k_BKTD.shape[1]), k_BKTD, piece, scale)
    lse = scores.logsumexp(-1)
    probs = scores.sub_(_nowhere_infinite(lse)[..., None]).exp_()
    out = probs @ v_BKTD.unsqueeze(2).to(probs.dtype)
    return out.flatten(1, 2).to(q_BHsD.dtype), lse.flatten(1, 2)


def _products_backward(
    dout_BHsD: Tensor,
    q_BHsD: Tensor,
    k_BKTD: Tensor,
    v_BKTD: Tensor,
    out_BHsD: Tensor,
    lse_BHs: Tensor,
    piece: _Piece,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    q, dout, out = (_grouped(x, k_BKTD.shape[1]) for x in (q_BHsD, dout_BHsD, out_BHsD))
    lse = _nowhere_infinite(lse_BHs).reshape(q.shape[:-1])
    probs = _scores(q, k_BKTD, piece, scale).sub_(lse[..., None]).exp_()
    dv = (probs.transpose(-1, -2) @ dout).sum(2)
    dprobs = dout @ v_BKTD.unsqueeze(2).to(probs.dtype).transpose(-1, -2)
    dscores = probs.mul_(dprobs.sub_((dout * out).sum(-1, keepdim=True))).mul_(scale)
    dq = (dscores @ k_BKTD.unsqueeze(2).to(probs.dtype)).flatten(1, 2).to(q_BHsD.dtype)
    return dq, (dscores.transpose(-1, -2) @ q).sum(2), dv


def _nowhere_infinite(lse: Tensor) -> Tensor:
    """Zero for a query that sees nothing: its scores, all minus infinity, then give probabilities of zero."""
    return lse.masked_fill(lse == float("-inf"), 0.0)


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
    compute = _flash if q_BSHD.is_cpu else _products
    q_BHSD, k_BKTD, v_BKTD = (x.transpose(1, 2) for x in (q_BSHD, k_BTKD, v_BTKD))
    parts = [
        compute(q_BHSD[:, :, piece.rows], k_BKTD[:, :, : piece.keys], v_BKTD[:, :, : piece.keys], piece, scale)
        for piece in _pieces(q_BSHD, k_BTKD.shape[1], causal, document_ids_BS, key_document_ids_BT)
    ]
    if len(parts) == 1:
        out_BHSD, lse_BHS = parts[0]
    else:
        outs, lses = zip(*parts, strict=True)
        out_BHSD, lse_BHS = torch.cat(outs, 2), torch.cat(lses, 2)
    return out_BHSD.transpose(1, 2), lse_BHS


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
    compute = _flash_backward if q_BSHD.is_cpu else _products_backward
    wide = torch.promote_types(q_BSHD.dtype, torch.float32)
    dout, q, k, v, out = (x.transpose(1, 2) for x in (dout_BSHD, q_BSHD, k_BTKD, v_BTKD, out_BSHD))
    dk_BKTD, dv_BKTD = torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
    dqs = []
    for piece in _pieces(q_BSHD, k_BTKD.shape[1], causal, document_ids_BS, key_document_ids_BT):
        rows, keys = piece.rows, slice(0, piece.keys)
        dq, dk, dv = compute(
            dout[:, :, rows],
            q[:, :, rows],
            k[:, :, keys],
            v[:, :, keys],
            out[:, :, rows],
            lse_BHS[:, :, rows],
            piece,
            scale,
        )
        dqs.append(dq)
        dk_BKTD[:, :, keys] += dk
        dv_BKTD[:, :, keys] += dv
    dk_BTKD, dv_BTKD = (x.transpose(1, 2).to(k_BTKD.dtype) for x in (dk_BKTD, dv_BKTD))
    return torch.cat(dqs, 2).transpose(1, 2), dk_BTKD, dv_BTKD
