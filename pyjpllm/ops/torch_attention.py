"""Attention on ATen's fused kernels. Letters as in `pyjpllm.ops.api`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyjpllm.ops.memo import TensorMemo

_masks = TensorMemo()


def visible(
    queries: int,
    keys: int,
    *,
    causal: bool,
    window: int | None,
    document_ids_BS: Tensor | None,
    key_document_ids_BT: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Which keys a query sees, bool [1 or B, 1, S, T]; the queries are the last S of the T positions."""
    query_positions_S1 = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    key_positions_T = torch.arange(keys, device=device)
    distance_ST = query_positions_S1 - key_positions_T
    seen_ST = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if causal:
        seen_ST = seen_ST & (distance_ST >= 0)
    if window is not None:
        seen_ST = seen_ST & (distance_ST.abs() < window)
    if document_ids_BS is None or key_document_ids_BT is None:
        return seen_ST[None, None]
    same_BST = document_ids_BS.unsqueeze(2) == key_document_ids_BT.unsqueeze(1)
    return (same_BST & seen_ST).unsqueeze(1)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))


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
    queries, keys = q_BSHD.shape[1], k_BTKD.shape[1]
    if window is not None and window >= keys:
        window = None
    # The fused kernels know "causal" only for as many queries as keys; a single query sees all keys before it.
    causal_by_mask = causal and queries != keys and queries > 1
    mask = None
    if document_ids_BS is not None or window is not None or causal_by_mask:

        def make() -> Tensor:
            seen = visible(
                queries,
                keys,
                causal=causal,
                window=window,
                document_ids_BS=document_ids_BS,
                key_document_ids_BT=key_document_ids_BT,
                device=q_BSHD.device,
            )
            return _additive(seen, q_BSHD.dtype)

        if document_ids_BS is not None and document_ids_BS is key_document_ids_BT:
            mask = _masks.get(document_ids_BS, (causal, window, q_BSHD.dtype), make)
        else:
            mask = make()
    q_BHSD, k_BKTD, v_BKTD = (tensor.transpose(1, 2) for tensor in (q_BSHD, k_BTKD, v_BTKD))
    if mask is not None and causal and queries == keys and q_BSHD.is_cpu:
        # The public function takes a mask or "causal"; its CPU kernel takes both, and skips what is not causal.
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out_BHSD: Tensor = flash(q_BHSD, k_BKTD, v_BKTD, 0.0, True, attn_mask=mask, scale=scale)[0]
        return out_BHSD.transpose(1, 2)
    groups = q_BHSD.shape[1] // k_BKTD.shape[1]
    if groups > 1 and mask is not None and not q_BSHD.is_cpu:
        # On CUDA no fused kernel has both groups and a mask; repeated heads cost less than all the scores would.
        k_BKTD, v_BKTD = (tensor.repeat_interleave(groups, dim=1) for tensor in (k_BKTD, v_BKTD))
        groups = 1
    out_BHSD = F.scaled_dot_product_attention(
        q_BHSD,
        k_BKTD,
        v_BKTD,
        attn_mask=mask,
        is_causal=causal and mask is None and queries > 1,
        scale=scale,
        enable_gqa=groups > 1,
    )
    return out_BHSD.transpose(1, 2)
