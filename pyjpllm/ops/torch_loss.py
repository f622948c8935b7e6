"""Log-sum-exp and target logit of a linear head, one chunk of tokens at a time. Letters as in `pyjpllm.ops.api`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Bytes of one chunk of FP32 logits; one or two chunks live at a time.
CHUNK_BYTES = 16 << 20
# Bytes of chunks that forward keeps for backward; those of more are made again.
KEPT_BYTES = 64 << 20


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
    """Backward makes the chunks of logits again, but for the last ones, which forward has kept."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        tokens, vocab = hidden_ND.shape[0], weight_VD.shape[0]
        peak_N1 = hidden_ND.new_empty((tokens, 1), dtype=wide)
        total_N1 = hidden_ND.new_empty((tokens, 1), dtype=wide)
        target_logit_N = hidden_ND.new_empty(tokens, dtype=wide)
        size = chunk_tokens(tokens, vocab)
        kept = {}
        for start in range(0, tokens, size):
            piece = slice(start, start + size)
            logits_nV = (hidden_ND[piece] @ weight_VD.t()).to(wide)
            column_n1, inside_n = _local(targets_N[piece], vocab)
            target_logit_N[piece] = torch.where(inside_n, logits_nV.gather(1, column_n1).squeeze(1), 0)
            torch.amax(logits_nV, 1, keepdim=True, out=peak_N1[piece])
            exp_nV = logits_nV.sub_(peak_N1[piece]).exp_()
            torch.sum(exp_nV, 1, keepdim=True, out=total_N1[piece])
            if 4 * vocab * (tokens - start) <= KEPT_BYTES:
                kept[start] = exp_nV
        ctx.kept = kept
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, peak_N1, total_N1)
        return (peak_N1 + total_N1.log()).squeeze(1), target_logit_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_lse_N: Tensor, grad_target_N: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_ND, weight_VD, targets_N, peak_N1, total_N1 = ctx.saved_tensors
        tokens, vocab, wide = hidden_ND.shape[0], weight_VD.shape[0], total_N1.dtype
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide)
        share_N1 = grad_lse_N.unsqueeze(1) / total_N1
        size = chunk_tokens(tokens, vocab)
        for start in range(0, tokens, size):
            piece = slice(start, start + size)
            hidden_nD = hidden_ND[piece]
            # Taken out, since it is written over: a second backward makes it again, to the same bits.
            grad_nV = ctx.kept.pop(start, None)
            if grad_nV is None:
                grad_nV = (hidden_nD @ weight_VD.t()).to(wide).sub_(peak_N1[piece]).exp_()
            grad_nV.mul_(share_N1[piece])
            column_n1, inside_n = _local(targets_N[piece], vocab)
            grad_nV.scatter_add_(1, column_n1, torch.where(inside_n, grad_target_N[piece], 0).unsqueeze(1))
            grad_nV = grad_nV.to(hidden_ND.dtype)
            torch.mm(grad_nV, weight_VD, out=grad_hidden_ND[piece])
            if hidden_ND.dtype == wide:
                grad_weight_VD.addmm_(grad_nV.t(), hidden_nD)
            else:
                grad_weight_VD.add_(grad_nV.t() @ hidden_nD)
        return grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype), None


def linear_logsumexp(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    lse_N, target_logit_N = _LinearLogSumExp.apply(hidden_ND, weight_VD, targets_N)  # type: ignore[no-untyped-call]
    return lse_N, target_logit_N


class _SummedCrossEntropy(torch.autograd.Function):
    """The loss and the z-loss summed over tokens. Where their gradients are one and the same tensor, as those of
    ``loss + z_loss`` are, the inputs' gradients differ from those of the sum by that factor only: forward makes them
    while it has each chunk's logits, and nothing is made twice. Else backward makes all again."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, valid_N: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        tokens, vocab = hidden_ND.shape[0], weight_VD.shape[0]
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if needs_weight else None
        losses_N1 = hidden_ND.new_empty((tokens, 1), dtype=wide)
        lse_N1 = hidden_ND.new_empty((tokens, 1), dtype=wide)
        size = chunk_tokens(tokens, vocab)
        for start in range(0, tokens, size):
            piece = slice(start, start + size)
            hidden_nD, valid_n1 = hidden_ND[piece], valid_N[piece].unsqueeze(1)
            logits_nV = (hidden_nD @ weight_VD.t()).to(wide)
            column_n1, _ = _local(targets_N[piece], vocab)
            target_logit_n1 = logits_nV.gather(1, column_n1)
            peak_n1 = logits_nV.amax(1, keepdim=True)
            grad_nV = logits_nV.sub_(peak_n1).exp_()
            total_n1 = grad_nV.sum(1, keepdim=True)
            lse_n1 = torch.where(valid_n1, peak_n1 + total_n1.log(), 0)
            lse_N1[piece] = lse_n1
            losses_N1[piece] = torch.where(valid_n1, lse_n1 - target_logit_n1, 0)
            if grad_hidden_ND is None and grad_weight_VD is None:
                continue
            grad_nV.mul_(torch.where(valid_n1, (1 + 2 * z_loss * lse_n1) / total_n1, 0))
            grad_nV.scatter_add_(1, column_n1, -valid_n1.to(wide))
            grad_nV = grad_nV.to(hidden_ND.dtype)
            if grad_hidden_ND is not None:
                torch.mm(grad_nV, weight_VD, out=grad_hidden_ND[piece])
            if grad_weight_VD is not None and hidden_ND.dtype == wide:
                grad_weight_VD.addmm_(grad_nV.t(), hidden_nD)
            elif grad_weight_VD is not None:
                grad_weight_VD.add_(grad_nV.t() @ hidden_nD)
        ctx.grads = (grad_hidden_ND, grad_weight_VD)
        ctx.z_loss = z_loss
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, valid_N)
        ctx.set_materialize_grads(False)
        return losses_N1.sum(), z_loss * lse_N1.square().sum()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_loss: Tensor | None, grad_penalty: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if grad_loss is None and (grad_penalty is None or ctx.z_loss == 0):
            return None, None, None, None, None
        if grad_loss is None or (grad_penalty is not grad_loss and ctx.z_loss != 0):
            return *_unequal_gradients(ctx, grad_loss, grad_penalty), None, None, None
        grad_hidden_ND, grad_weight_VD = ctx.grads
        hidden = None if grad_hidden_ND is None else grad_hidden_ND * grad_loss.to(grad_hidden_ND.dtype)
        weight = None if grad_weight_VD is None else (grad_weight_VD * grad_loss).to(ctx.saved_tensors[1].dtype)
        return hidden, weight, None, None, None


def _unequal_gradients(
    ctx: Any, grad_loss: Tensor | None, grad_penalty: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of hidden and weight where the loss and the z-loss count with different factors."""
    hidden_ND, weight_VD, targets_N, valid_N = ctx.saved_tensors
    needs = ctx.needs_input_grad[:2]
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_(need) for x, need in zip((hidden_ND, weight_VD), needs, strict=True)]
        lse_N, target_logit_N = linear_logsumexp(inputs[0], inputs[1], targets_N)
    zero = lse_N.new_zeros(())
    of_loss, of_penalty = (zero if grad is None else grad for grad in (grad_loss, grad_penalty))
    grad_lse_N = torch.where(valid_N, of_loss + of_penalty * (2 * ctx.z_loss) * lse_N.detach(), zero)
    grad_target_N = torch.where(valid_N, -of_loss, zero)
    wanted = [x for x, need in zip(inputs, needs, strict=True) if need]
    made = iter(torch.autograd.grad((lse_N, target_logit_N), wanted, (grad_lse_N, grad_target_N)))
    hidden, weight = (next(made) if need else None for need in needs)
    return hidden, weight


def summed_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, valid_N: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The sums of `CrossEntropy`; see `pyjpllm.ops.api.linear_cross_entropy`."""
    loss, penalty = _SummedCrossEntropy.apply(hidden_ND, weight_VD, targets_N, valid_N, z_loss)  # type: ignore[no-untyped-call]
    return loss, penalty
