"""Log-sum-exp and target logit of a linear head, one chunk of tokens at a time. Letters as in `pyjpllm.ops.api`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Bytes of one chunk of FP32 logits. One or two chunks live at a time, whatever the number of tokens.
CHUNK_BYTES = 64 << 20


def chunk_tokens(tokens: int, vocab: int) -> int:
    """Tokens of a chunk: at least one, equal chunks but for the last, each within `CHUNK_BYTES` of FP32 logits."""
    most = max(1, CHUNK_BYTES // (4 * max(vocab, 1)))
    chunks = -(-tokens // most)
    return max(1, -(-tokens // max(chunks, 1)))


def _local(targets_n: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """Targets made safe to gather with, as a column, and which of them lie within the vocabulary."""
    inside_n = (targets_n >= 0) & (targets_n < vocab)
    return torch.where(inside_n, targets_n, 0).unsqueeze(1), inside_n


class _LinearLogSumExp(torch.autograd.Function):
    """Backward makes each chunk's logits again, but for the last chunk, whose logits forward has kept."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        tokens, vocab = hidden_ND.shape[0], weight_VD.shape[0]
        lse_N = hidden_ND.new_empty(tokens, dtype=wide)
        target_logit_N = hidden_ND.new_empty(tokens, dtype=wide)
        size = chunk_tokens(tokens, vocab)
        logits_nV = hidden_ND.new_empty((0, vocab))
        for start in range(0, tokens, size):
            piece = slice(start, start + size)
            logits_nV = hidden_ND[piece] @ weight_VD.t()
            column_n1, inside_n = _local(targets_N[piece], vocab)
            lse_N[piece] = torch.logsumexp(logits_nV.to(wide), dim=1)
            target_logit_n = logits_nV.gather(1, column_n1).squeeze(1)
            target_logit_N[piece] = torch.where(inside_n, target_logit_n, 0)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, lse_N, logits_nV)
        return lse_N, target_logit_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_lse_N: Tensor, grad_target_N: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_ND, weight_VD, targets_N, lse_N, last_logits_nV = ctx.saved_tensors
        tokens, vocab = hidden_ND.shape[0], weight_VD.shape[0]
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=lse_N.dtype)
        size = chunk_tokens(tokens, vocab)
        for start in range(0, tokens, size):
            piece = slice(start, start + size)
            hidden_nD = hidden_ND[piece]
            logits_nV = last_logits_nV if start + size >= tokens else hidden_nD @ weight_VD.t()
            grad_nV = logits_nV.to(lse_N.dtype, copy=True).sub_(lse_N[piece].unsqueeze(1)).exp_()
            grad_nV.mul_(grad_lse_N[piece].unsqueeze(1))
            column_n1, inside_n = _local(targets_N[piece], vocab)
            grad_nV.scatter_add_(1, column_n1, torch.where(inside_n, grad_target_N[piece], 0).unsqueeze(1))
            grad_nV = grad_nV.to(hidden_ND.dtype)
            grad_hidden_ND[piece] = grad_nV @ weight_VD
            if hidden_ND.dtype == lse_N.dtype:
                grad_weight_VD.addmm_(grad_nV.t(), hidden_nD)
            else:
                grad_weight_VD.add_(grad_nV.t() @ hidden_nD)
        return grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype), None


def linear_logsumexp(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    lse_N, target_logit_N = _LinearLogSumExp.apply(hidden_ND, weight_VD, targets_N)  # type: ignore[no-untyped-call]
    return lse_N, target_logit_N
