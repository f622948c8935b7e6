"""The operations: one function each, checked here, computed by the current backend.

Letters: B batch, S queries, T keys, H query heads, K key/value heads, D width (of a head, or of the model), I inputs,
O outputs, N tokens, V vocabulary, E experts, k experts of a token, M = N k rows. 16-bit inputs are summed in FP32
inside norms, softmax and log-sum-exp; FP64 inputs are FP64 throughout.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import cast, get_args

import torch
from torch import Tensor

from pyjpllm.ops.registry import operation, optional_operation
from pyjpllm.ops.types import CrossEntropy, ExpertOrder, RopeScaling, Scoring


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: x [..., I], weight [O, I], bias [O] -> [..., O]."""
    return cast(Tensor, operation("linear")(x, weight, bias))


def prepacked(weights: Iterable[Tensor], rows: int) -> AbstractContextManager[None]:
    """Inside the block `linear` may take weights [O, I] as packed now, where that pays for inputs of ``rows`` rows.

    For many calls with few rows and the same weights, as in generation; results have the same bits. Where a backend
    packs (`native`), a weight stays and its copy comes beside it, as large, or twice as large for BF16 and FP16 that
    are converted on the way. Weights must not change in the block: a change that torch counts turns the copy off, one
    behind its back is not seen.
    """
    own = optional_operation("prepacked")
    return nullcontext() if own is None else cast("AbstractContextManager[None]", own(weights, rows))


def linear_grad_input(dy: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `linear`'s x, ``dy @ weight``: dy [..., O], weight [O, I] -> [..., I]. Without autograd."""
    return cast(Tensor, operation("linear_grad_input")(dy, weight))


def linear_grad_weight(dy: Tensor, x: Tensor) -> Tensor:
    """The gradient of `linear`'s weight, ``dy.T @ x`` over all rows: [..., O], [..., I] -> [O, I]. Without autograd."""
    return cast(Tensor, operation("linear_grad_weight")(dy, x))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``weight * x / sqrt(mean(x ** 2) + eps)`` over the last dimension: x [..., D], weight [D] -> [..., D].

    Zhang and Sennrich, 2019, arXiv:1910.07467.
    """
    return cast(Tensor, operation("rms_norm")(x, weight, eps))


def add_rms_norm(x: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``h = x + update`` and ``rms_norm(h, weight, eps)``: x and update [..., D], weight [D] -> two [..., D].

    What a residual stream does between two layers, where a backend can in one pass over memory.
    """
    return cast("tuple[Tensor, Tensor]", operation("add_rms_norm")(x, update, weight, eps))


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
    """Softmax attention with grouped heads: q [B, S, H, D], k and v [B, T, K, D] -> [B, S, H, D].

    H is a multiple of K; query head h reads key head ``h // (H / K)``. T >= S, and the queries are the last S
    positions of T, as with a key-value cache. ``causal`` hides later keys; ``window`` shows only the last ``window``
    positions, the query's own included (and with ``causal=False`` as many after it). With document ids a query sees
    only keys of its own document; the keys' ids default to the queries'. A query that sees no key gives zeros.
    ``scale`` defaults to ``1 / sqrt(D)``. Vaswani et al., 2017, arXiv:1706.03762; Ainslie et al., 2023,
    arXiv:2305.13245.
    """
    _check_heads("attention", q_BSHD, k_BTKD, v_BTKD)
    queries, keys, dim = q_BSHD.shape[1], k_BTKD.shape[1], q_BSHD.shape[3]
    if keys < queries:
        raise ValueError(f"attention: {queries} queries are the last positions of only {keys} keys")
    if window is not None and window < 1:
        raise ValueError(f"attention: window must be at least 1, got {window}")
    if document_ids_BS is None and key_document_ids_BT is not None:
        raise ValueError("attention: key_document_ids_BT is given without document_ids_BS")
    if document_ids_BS is not None and key_document_ids_BT is None:
        if keys != queries:
            raise ValueError("attention: with more keys than queries key_document_ids_BT must be given too")
        key_document_ids_BT = document_ids_BS
    return cast(
        Tensor,
        operation("attention")(
            q_BSHD,
            k_BTKD,
            v_BTKD,
            causal=causal,
            document_ids_BS=document_ids_BS,
            key_document_ids_BT=key_document_ids_BT,
            scale=dim**-0.5 if scale is None else scale,
            window=window,
        ),
    )


def attention_block(
    q_BSHD: Tensor,
    k_BTKD: Tensor,
    v_BTKD: Tensor,
    *,
    causal: bool = False,
    document_ids_BS: Tensor | None = None,
    key_document_ids_BT: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """What a block of keys gives to queries that see other keys too: (out [B, S, H, D], log-sum-exp [B, H, S]).

    As `attention`, but S and T are any where not causal, and with the log-sum-exp of each query's scores in FP32 (FP64
    for FP64; minus infinity where a query sees none of the keys), by which the results of several blocks are weighed:
    a row's output is ``sum(out_i * exp(lse_i - lse))`` with ``lse = logsumexp(lse_i)`` (Milakov and Gimelshein, 2018,
    arXiv:1805.02867; Liu et al., 2023, arXiv:2310.01889). Without autograd; memory beside the results is linear in S
    and T, except on `reference`.
    """
    _check_block("attention_block", q_BSHD, k_BTKD, v_BTKD, causal, document_ids_BS, key_document_ids_BT)
    if not q_BSHD.numel() or not k_BTKD.numel():
        wide = torch.promote_types(q_BSHD.dtype, torch.float32)
        shape_BHS = (q_BSHD.shape[0], q_BSHD.shape[2], q_BSHD.shape[1])
        return torch.zeros_like(q_BSHD), q_BSHD.new_full(shape_BHS, float("-inf"), dtype=wide)
    found = operation("attention_block")(
        q_BSHD,
        k_BTKD,
        v_BTKD,
        causal=causal,
        document_ids_BS=document_ids_BS,
        key_document_ids_BT=key_document_ids_BT,
        scale=q_BSHD.shape[3] ** -0.5 if scale is None else scale,
    )
    return cast("tuple[Tensor, Tensor]", found)


def attention_block_backward(
    dout_BSHD: Tensor,
    q_BSHD: Tensor,
    k_BTKD: Tensor,
    v_BTKD: Tensor,
    out_BSHD: Tensor,
    lse_BHS: Tensor,
    *,
    causal: bool = False,
    document_ids_BS: Tensor | None = None,
    key_document_ids_BT: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """This block's part of the gradients of q, k and v, where ``out`` and ``lse`` are those of the whole rows.

    Over all blocks that a query sees, the parts add up to the gradient of q; over all queries, to those of k and v
    (Dao et al., 2022, arXiv:2205.14135).
    """
    name = "attention_block_backward"
    _check_block(name, q_BSHD, k_BTKD, v_BTKD, causal, document_ids_BS, key_document_ids_BT)
    batch, queries, heads, _ = q_BSHD.shape
    if {dout_BSHD.shape, out_BSHD.shape} != {q_BSHD.shape} or lse_BHS.shape != (batch, heads, queries):
        shapes = ", ".join(str(tuple(t.shape)) for t in (dout_BSHD, out_BSHD, lse_BHS))
        raise ValueError(f"{name}: dout and out [B,S,H,D] and lse [B,H,S] are needed, got {shapes}")
    if not q_BSHD.numel() or not k_BTKD.numel():
        return torch.zeros_like(q_BSHD), torch.zeros_like(k_BTKD), torch.zeros_like(v_BTKD)
    found = operation(name)(
        dout_BSHD,
        q_BSHD,
        k_BTKD,
        v_BTKD,
        out_BSHD,
        lse_BHS,
        causal=causal,
        document_ids_BS=document_ids_BS,
        key_document_ids_BT=key_document_ids_BT,
        scale=q_BSHD.shape[3] ** -0.5 if scale is None else scale,
    )
    return cast("tuple[Tensor, Tensor, Tensor]", found)


def _check_block(
    name: str, q: Tensor, k: Tensor, v: Tensor, causal: bool, ids: Tensor | None, key_ids: Tensor | None
) -> None:
    _check_heads(name, q, k, v)
    if causal and k.shape[1] < q.shape[1]:
        raise ValueError(f"{name}: causal, {q.shape[1]} queries are the last positions of only {k.shape[1]} keys")
    if (ids is None) != (key_ids is None):
        raise ValueError(f"{name}: document ids are needed for both queries and keys")


def _check_heads(name: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    batch, _, heads, dim = q.shape
    if k.shape != v.shape or k.shape[0] != batch or k.shape[3] != dim or heads % k.shape[2]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"{name}: q [B,S,H,D], k and v [B,T,K,D] with H a multiple of K are needed, got {shapes}")


def rotary(
    q: Tensor, k: Tensor, positions: Tensor, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Rotate q [B, S, H, D] and k [B, S, K, D] by their positions [B, S] (int64); same shapes out.

    Channel i is paired with channel i + D/2 (the rotate-half convention of Hugging Face's Llama). Angles are FP32,
    FP64 for FP64 inputs; see `pyjpllm.ops.rope` for the frequencies. Su et al., 2021, arXiv:2104.09864.
    """
    return cast("tuple[Tensor, Tensor]", operation("rotary")(q, k, positions, theta, scaling))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, elementwise. Shazeer, 2020, arXiv:2002.05202."""
    return cast(Tensor, operation("swiglu")(gate, up))


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [V, D] by ids [...] (int64, within [0, V)) -> [..., D]. Gradients are summed in FP32 or FP64."""
    return cast(Tensor, operation("embedding")(ids, weight))


def linear_logsumexp(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Of the logits ``hidden @ weight.T``: (log-sum-exp [N], logit of the target [N]), without holding all logits.

    A target outside [0, V) gives a target logit of 0 (a rank that holds a part of the vocabulary passes local ids).
    Both outputs are FP32 (FP64 for FP64 inputs) and differentiable in hidden and weight.
    """
    return cast("tuple[Tensor, Tensor]", operation("linear_logsumexp")(hidden_ND, weight_VD, targets_N))


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, z_loss: float = 0.0, ignore_index: int = -100
) -> CrossEntropy:
    """Cross-entropy of the logits ``hidden @ weight.T`` summed over the tokens whose target is not ``ignore_index``.

    hidden [N, D], weight [V, D], targets [N] int64. ``z_loss`` is the weight of the squared log-partition (Chowdhery
    et al., 2022, arXiv:2204.02311). Made of `linear_logsumexp`. On the CPU a target that is neither in the vocabulary
    nor ``ignore_index`` raises IndexError.
    """
    valid_N = targets != ignore_index
    if targets.is_cpu:
        wrong_N = valid_N & ((targets < 0) | (targets >= weight.shape[0]))
        if wrong_N.any():
            wrong = int(targets[wrong_N][0])
            raise IndexError(f"target {wrong} is neither in a vocabulary of {weight.shape[0]} nor {ignore_index}")
    fused = optional_operation("summed_cross_entropy")
    if fused is not None:  # where both sums get one factor, all gradients are it times those that forward can make
        loss, penalty = fused(hidden, weight, targets, valid_N, z_loss)
        return CrossEntropy(loss, penalty, valid_N.sum())
    lse_N, target_logit_N = linear_logsumexp(hidden, weight, targets)
    return combine_cross_entropy(lse_N, target_logit_N, valid_N, z_loss)


def combine_cross_entropy(lse_N: Tensor, target_logit_N: Tensor, valid_N: Tensor, z_loss: float) -> CrossEntropy:
    """The sums of `CrossEntropy` from the log-sum-exp and target logit of each token and which tokens count."""
    zero = lse_N.new_zeros(())
    loss = torch.where(valid_N, lse_N - target_logit_N, zero).sum()
    penalty = z_loss * torch.where(valid_N, lse_N, zero).square().sum() if z_loss else zero
    return CrossEntropy(loss, penalty, valid_N.sum())


def route(
    logits_NE: Tensor,
    k: int,
    *,
    scoring: Scoring = "softmax",
    normalize: bool = True,
    bias_E: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k experts of each token: (experts [N, k] int64, weights [N, k] in FP32, or FP64 for FP64 logits).

    Scores are the softmax or the sigmoid of logits [N, E]. Chosen are the experts with the k largest scores, of equal
    ones that with the lower number, the largest first; ``bias_E`` is added for the choice only (Wang et al., 2024,
    arXiv:2408.15664). The weights are the chosen scores, with ``normalize`` over their sum; they are differentiable
    in the logits (Shazeer et al., 2017, arXiv:1701.06538).
    """
    if scoring not in get_args(Scoring):
        raise ValueError(f"route: scoring is 'softmax' or 'sigmoid', got {scoring!r}")
    if logits_NE.ndim != 2 or not 1 <= k <= logits_NE.shape[1]:
        raise ValueError(f"route: 1 to E experts of logits [N, E] are needed, got {k} of {tuple(logits_NE.shape)}")
    if bias_E is not None and bias_E.shape != logits_NE.shape[1:]:
        raise ValueError(f"route: bias [{logits_NE.shape[1]}] is needed, got {tuple(bias_E.shape)}")
    found = operation("route")(logits_NE, k, scoring=scoring, normalize=normalize, bias_E=bias_E)
    return cast("tuple[Tensor, Tensor]", found)


def sort_by_expert(experts_Nk: Tensor, num_experts: int) -> ExpertOrder:
    """The stable order by expert of the N k rows that `route`'s experts [N, k] make."""
    if experts_Nk.ndim != 2 or experts_Nk.dtype != torch.int64:
        raise ValueError(f"sort_by_expert: int64 [N, k] is needed, got {experts_Nk.dtype} {tuple(experts_Nk.shape)}")
    return cast(ExpertOrder, operation("sort_by_expert")(experts_Nk, num_experts))


def dispatch(x_ND: Tensor, order: ExpertOrder) -> Tensor:
    """Each token's row once for each of its experts, in their order: [N, D] -> [N k, D]."""
    if x_ND.ndim != 2 or x_ND.shape[0] != order.position_Nk.shape[0]:
        tokens = order.position_Nk.shape[0]
        raise ValueError(f"dispatch: x [{tokens}, D] is needed for this order, got {tuple(x_ND.shape)}")
    return cast(Tensor, operation("dispatch")(x_ND, order))


def combine(x_MD: Tensor, order: ExpertOrder, weights_Nk: Tensor) -> Tensor:
    """Sum over a token's experts of weight times row, the way back of `dispatch`: [N k, D], [N, k] -> [N, D]."""
    fits = x_MD.ndim == 2 and x_MD.shape[0] == order.token_M.shape[0] and weights_Nk.shape == order.position_Nk.shape
    if not fits:
        needed = f"x [{order.token_M.shape[0]}, D] and weights {tuple(order.position_Nk.shape)}"
        got = f"{tuple(x_MD.shape)}, {tuple(weights_Nk.shape)}"
        raise ValueError(f"combine: {needed} are needed for this order, got {got}")
    return cast(Tensor, operation("combine")(x_MD, order, weights_Nk))


def grouped_linear(x_ND: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    """A linear layer per expert: x [N, I] sorted by expert, weights [E, O, I], group sizes [E] (int64) -> [N, O].

    The first ``group_sizes[0]`` rows go through ``weights[0]``, and so on; the sizes add up to N, zeros are allowed.
    """
    return cast(Tensor, operation("grouped_linear")(x_ND, weights_EOI, group_sizes_E))


def grouped_linear_grad_input(dy_NO: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    """The gradient of `grouped_linear`'s x: [N, O], [E, O, I], sizes [E] -> [N, I]. Without autograd."""
    return cast(Tensor, operation("grouped_linear_grad_input")(dy_NO, weights_EOI, group_sizes_E))


def grouped_linear_grad_weight(dy_NO: Tensor, x_NI: Tensor, group_sizes_E: Tensor) -> Tensor:
    """The gradient of `grouped_linear`'s weights: [N, O], [N, I], sizes [E] -> [E, O, I]. Without autograd."""
    return cast(Tensor, operation("grouped_linear_grad_weight")(dy_NO, x_NI, group_sizes_E))


def adamw_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float = 1.0,
    model_param: Tensor | None = None,
) -> None:
    """One AdamW step in place on flat buffers of one length, FP32 or FP64 (Loshchilov and Hutter, arXiv:1711.05101).

    ``g = grad_scale * grad``; ``m = beta1 m + (1 - beta1) g``; ``v = beta2 v + (1 - beta2) g ** 2``;
    ``p = (1 - lr weight_decay) p - lr (m / (1 - beta1 ** step)) / (sqrt(v / (1 - beta2 ** step)) + eps)``.
    ``step`` counts from 1. ``grad``, which may have 16 bits, is left as it was. ``model_param`` (16-bit, say) is
    written with the new ``p``.
    """
    if step < 1:
        raise ValueError(f"adamw_step: step counts from 1, got {step}")
    operation("adamw_step")(
        param,
        grad,
        exp_avg,
        exp_avg_sq,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        step=step,
        grad_scale=grad_scale,
        model_param=model_param,
    )


def sum_of_squares(x: Tensor) -> Tensor:
    """The sum of ``x ** 2`` over all elements, a scalar in FP64: finite where and only where all of an x of at most 32
    bits is. It has no gradient.
    """
    return cast(Tensor, operation("sum_of_squares")(x))
