"""The `reference` backend: every operation and its gradient in NumPy, written out as the formula is.

All is computed in FP64 and rounded once, to the type of the result; only rotary's angles are in the type the contract
says. Letters as in `pyjpllm.ops.api`; G = H / K query heads share a key head. `g_` is a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyjpllm.ops.rope import inverse_frequencies
from pyjpllm.ops.types import ExpertOrder, RopeScaling, Scoring

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Gradients = Callable[..., Sequence[Array]]


def _floats(tensor: Tensor) -> Array:
    result: Array = tensor.detach().cpu().double().numpy()
    return result


def _integers(tensor: Tensor) -> Integers:
    result: Integers = tensor.detach().cpu().numpy()
    return result


def _tensor(array: Array, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, like.dtype if dtype is None else dtype)


class _Formula(torch.autograd.Function):
    """``formula(*arrays) -> (outputs, gradients)`` with ``gradients(*g_outputs)`` one array for each input."""

    @staticmethod
    def forward(ctx: Any, formula: Callable[..., Any], dtypes: Sequence[torch.dtype], *inputs: Tensor) -> Any:
        outputs, ctx.gradients = formula(*map(_floats, inputs))
        ctx.inputs = [(tensor.dtype, tensor.device) for tensor in inputs]
        return tuple(_tensor(output, inputs[0], dtype) for output, dtype in zip(outputs, dtypes, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *g_outputs: Tensor) -> tuple[Tensor | None, ...]:
        g_inputs = ctx.gradients(*map(_floats, g_outputs))
        made = [
            torch.from_numpy(np.ascontiguousarray(g)).to(device, dtype)
            for g, (dtype, device) in zip(g_inputs, ctx.inputs, strict=True)
        ]
        return None, None, *made


def _apply(formula: Callable[..., Any], inputs: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> tuple[Tensor, ...]:
    result: tuple[Tensor, ...] = _Formula.apply(formula, dtypes, *inputs)  # type: ignore[no-untyped-call]
    return result


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    def formula(x: Array, weight: Array, *bias: Array) -> tuple[list[Array], Gradients]:
        y = x @ weight.T
        for b in bias:
            y = y + b

        def gradients(g_y: Array) -> list[Array]:
            rows_x, rows_g = x.reshape(-1, x.shape[-1]), g_y.reshape(-1, g_y.shape[-1])
            return [g_y @ weight, rows_g.T @ rows_x, *(rows_g.sum(0) for _ in bias)]

        return [y], gradients

    inputs = [x, weight] if bias is None else [x, weight, bias]
    return _apply(formula, inputs, [x.dtype])[0]


def linear_grad_input(dy: Tensor, weight: Tensor) -> Tensor:
    return _tensor(_floats(dy) @ _floats(weight), dy)


def linear_grad_weight(dy: Tensor, x: Tensor) -> Tensor:
    rows_dy, rows_x = (_floats(t).reshape(-1, t.shape[-1]) for t in (dy, x))
    return _tensor(rows_dy.T @ rows_x, x)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    def formula(x: Array, weight: Array) -> tuple[list[Array], Gradients]:
        size = x.shape[-1]
        r = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
        normed = x * r

        def gradients(g_y: Array) -> list[Array]:
            g_normed = g_y * weight
            # d r / d x_j = -r^3 x_j / size
            g_x = g_normed * r - x * r**3 * (g_normed * x).sum(-1, keepdims=True) / size
            g_weight = (g_y * normed).reshape(-1, size).sum(0)
            return [g_x, g_weight]

        return [normed * weight], gradients

    return _apply(formula, [x, weight], [x.dtype])[0]


def add_rms_norm(x: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = _apply(lambda x, update: ([x + update], lambda g: [g, g]), [x, update], [x.dtype])[0]
    return total, rms_norm(total, weight, eps)


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
    queries, keys, dim = q_BSHD.shape[1], k_BTKD.shape[1], q_BSHD.shape[3]
    groups = q_BSHD.shape[2] // k_BTKD.shape[2]
    factor = dim**-0.5 if scale is None else scale
    distance_ST = np.arange(keys - queries, keys)[:, None] - np.arange(keys)[None, :]
    seen_ST = np.ones((queries, keys), dtype=bool)
    if causal:
        seen_ST &= distance_ST >= 0
    if window is not None:
        seen_ST &= abs(distance_ST) < window
    seen_BHST = seen_ST[None, None]
    if document_ids_BS is not None and key_document_ids_BT is not None:
        same_BST = _integers(document_ids_BS)[:, :, None] == _integers(key_document_ids_BT)[:, None, :]
        seen_BHST = seen_BHST & same_BST[:, None]

    def formula(q_BSHD: Array, k_BTKD: Array, v_BTKD: Array) -> tuple[list[Array], Gradients]:
        k_BTHD, v_BTHD = (np.repeat(x, groups, axis=2) for x in (k_BTKD, v_BTKD))
        scores_BHST = factor * np.einsum("bshd,bthd->bhst", q_BSHD, k_BTHD)
        scores_BHST = np.where(seen_BHST, scores_BHST, -np.inf)
        peak_BHS1 = scores_BHST.max(-1, keepdims=True)
        exp_BHST = np.exp(scores_BHST - np.where(np.isfinite(peak_BHS1), peak_BHS1, 0))
        total_BHS1 = exp_BHST.sum(-1, keepdims=True)
        probs_BHST = exp_BHST / np.where(total_BHS1 == 0, 1, total_BHS1)
        out_BSHD = np.einsum("bhst,bthd->bshd", probs_BHST, v_BTHD)

        def share(g_BTHD: Array) -> Array:
            batch, keys, heads, dim = g_BTHD.shape
            g_BTKD: Array = g_BTHD.reshape(batch, keys, heads // groups, groups, dim).sum(3)
            return g_BTKD

        def gradients(g_BSHD: Array) -> list[Array]:
            g_v_BTHD = np.einsum("bhst,bshd->bthd", probs_BHST, g_BSHD)
            g_probs_BHST = np.einsum("bshd,bthd->bhst", g_BSHD, v_BTHD)
            mean_BHS1 = (g_probs_BHST * probs_BHST).sum(-1, keepdims=True)
            g_scores_BHST = factor * probs_BHST * (g_probs_BHST - mean_BHS1)
            g_q_BSHD = np.einsum("bhst,bthd->bshd", g_scores_BHST, k_BTHD)
            g_k_BTHD = np.einsum("bhst,bshd->bthd", g_scores_BHST, q_BSHD)
            return [g_q_BSHD, share(g_k_BTHD), share(g_v_BTHD)]

        return [out_BSHD], gradients

    return _apply(formula, [q_BSHD, k_BTKD, v_BTKD], [q_BSHD.dtype])[0]


def _block_scores(
    q: Array, k: Array, causal: bool, ids_BS: Tensor | None, key_ids_BT: Tensor | None, scale: float
) -> Array:
    """[B, H, S, T], minus infinity where a query does not see a key."""
    queries, keys = q.shape[1], k.shape[1]
    scores_BHST = scale * np.einsum("bshd,bthd->bhst", q, np.repeat(k, q.shape[2] // k.shape[2], axis=2))
    seen_BHST = np.ones((1, 1, queries, keys), dtype=bool)
    if causal:
        seen_BHST = seen_BHST & (np.arange(keys - queries, keys)[:, None] >= np.arange(keys))
    if ids_BS is not None and key_ids_BT is not None:
        seen_BHST = seen_BHST & (_integers(ids_BS)[:, None, :, None] == _integers(key_ids_BT)[:, None, None, :])
    masked: Array = np.where(seen_BHST, scores_BHST, -np.inf)
    return masked


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
    q, k, v = (_floats(x) for x in (q_BSHD, k_BTKD, v_BTKD))
    scores_BHST = _block_scores(q, k, causal, document_ids_BS, key_document_ids_BT, scale)
    peak_BHS = scores_BHST.max(-1, initial=-np.inf)
    exp_BHST = np.exp(scores_BHST - np.where(np.isfinite(peak_BHS), peak_BHS, 0)[..., None])
    total_BHS = exp_BHST.sum(-1)
    nothing_BHS = total_BHS == 0
    lse_BHS = np.where(nothing_BHS, -np.inf, peak_BHS + np.log(np.where(nothing_BHS, 1, total_BHS)))
    probs_BHST = exp_BHST / np.where(nothing_BHS, 1, total_BHS)[..., None]
    out_BSHD = np.einsum("bhst,bthd->bshd", probs_BHST, np.repeat(v, q.shape[2] // k.shape[2], axis=2))
    return _tensor(out_BSHD, q_BSHD), _tensor(lse_BHS, q_BSHD, torch.promote_types(q_BSHD.dtype, torch.float32))


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
    dout, q, k, v, out, lse = (_floats(x) for x in (dout_BSHD, q_BSHD, k_BTKD, v_BTKD, out_BSHD, lse_BHS))
    groups = q.shape[2] // k.shape[2]
    scores_BHST = _block_scores(q, k, causal, document_ids_BS, key_document_ids_BT, scale)
    probs_BHST = np.exp(scores_BHST - np.where(np.isfinite(lse), lse, 0)[..., None])
    g_probs_BHST = np.einsum("bshd,bthd->bhst", dout, np.repeat(v, groups, axis=2))
    mean_BHS = (dout * out).sum(-1).swapaxes(1, 2)
    g_scores_BHST = scale * probs_BHST * (g_probs_BHST - mean_BHS[..., None])

    def share(g_BTHD: Array) -> Array:
        g_BTKD: Array = g_BTHD.reshape(*k.shape[:3], groups, k.shape[3]).sum(3)
        return g_BTKD

    g_q = np.einsum("bhst,bthd->bshd", g_scores_BHST, np.repeat(k, groups, axis=2))
    g_k = share(np.einsum("bhst,bshd->bthd", g_scores_BHST, q))
    g_v = share(np.einsum("bhst,bshd->bthd", probs_BHST, dout))
    return _tensor(g_q, q_BSHD), _tensor(g_k, k_BTKD), _tensor(g_v, v_BTKD)


def rotary(
    q: Tensor, k: Tensor, positions: Tensor, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    frequencies_d = inverse_frequencies(q.shape[-1], theta, scaling, dtype).numpy()
    angles = _integers(positions)[..., None, None].astype(frequencies_d.dtype) * frequencies_d
    cos, sin = np.cos(angles.astype(np.float64)), np.sin(angles.astype(np.float64))

    def turn(x: Array, sin: Array) -> Array:
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def formula(q: Array, k: Array) -> tuple[list[Array], Gradients]:
        # A rotation's inverse, and transpose, is the rotation back.
        return [turn(q, sin), turn(k, sin)], lambda g_q, g_k: [turn(g_q, -sin), turn(g_k, -sin)]

    turned_q, turned_k = _apply(formula, [q, k], [q.dtype, k.dtype])
    return turned_q, turned_k


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    def formula(gate: Array, up: Array) -> tuple[list[Array], Gradients]:
        sigmoid = np.where(gate >= 0, 1, np.exp(-abs(gate))) / (1 + np.exp(-abs(gate)))
        silu = gate * sigmoid

        def gradients(g_y: Array) -> list[Array]:
            return [g_y * up * (sigmoid + silu * (1 - sigmoid)), g_y * silu]

        return [silu * up], gradients

    return _apply(formula, [gate, up], [gate.dtype])[0]


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    rows = _integers(ids)
    if rows.size and (rows.min() < 0 or rows.max() >= weight.shape[0]):
        raise IndexError(f"embedding: ids {rows.min()}..{rows.max()} of a table of {weight.shape[0]} rows")

    def formula(weight: Array) -> tuple[list[Array], Gradients]:
        def gradients(g_y: Array) -> list[Array]:
            g_weight = np.zeros_like(weight)
            np.add.at(g_weight, rows, g_y)
            return [g_weight]

        return [weight[rows]], gradients

    return _apply(formula, [weight], [weight.dtype])[0]


def linear_logsumexp(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    targets = _integers(targets_N)
    inside_N = (targets >= 0) & (targets < weight_VD.shape[0])
    rows_n, columns_n = np.flatnonzero(inside_N), targets[inside_N]

    def formula(hidden_ND: Array, weight_VD: Array) -> tuple[list[Array], Gradients]:
        logits_NV = hidden_ND @ weight_VD.T
        peak_N1 = logits_NV.max(-1, keepdims=True)
        lse_N1 = peak_N1 + np.log(np.exp(logits_NV - peak_N1).sum(-1, keepdims=True))
        target_logit_N = np.zeros(len(targets))
        target_logit_N[rows_n] = logits_NV[rows_n, columns_n]

        def gradients(g_lse_N: Array, g_target_N: Array) -> list[Array]:
            g_logits_NV = np.exp(logits_NV - lse_N1) * g_lse_N[:, None]
            g_logits_NV[rows_n, columns_n] += g_target_N[rows_n]
            return [g_logits_NV @ weight_VD, g_logits_NV.T @ hidden_ND]

        return [lse_N1[:, 0], target_logit_N], gradients

    wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
    lse_N, target_logit_N = _apply(formula, [hidden_ND, weight_VD], [wide, wide])
    return lse_N, target_logit_N


def route(
    logits_NE: Tensor, k: int, *, scoring: Scoring, normalize: bool, bias_E: Tensor | None
) -> tuple[Tensor, Tensor]:
    logits = _floats(logits_NE)
    exp_NE = np.exp(logits - logits.max(-1, keepdims=True))
    scores_NE = 1 / (1 + np.exp(-logits)) if scoring == "sigmoid" else exp_NE / exp_NE.sum(-1, keepdims=True)
    keys_NE = logits if bias_E is None else scores_NE + _floats(bias_E)
    chosen_Nk = np.argsort(-keys_NE, -1, kind="stable")[:, :k]

    def formula(logits_NE: Array) -> tuple[list[Array], Gradients]:
        picked_Nk = np.take_along_axis(scores_NE, chosen_Nk, -1)
        total_N1 = picked_Nk.sum(-1, keepdims=True)
        weights_Nk = picked_Nk / total_N1 if normalize else picked_Nk

        def gradients(g_weights_Nk: Array) -> list[Array]:
            g_picked_Nk = g_weights_Nk
            if normalize:
                g_picked_Nk = (g_weights_Nk - (g_weights_Nk * weights_Nk).sum(-1, keepdims=True)) / total_N1
            g_scores_NE = np.zeros_like(logits_NE)
            np.put_along_axis(g_scores_NE, chosen_Nk, g_picked_Nk, -1)
            if scoring == "sigmoid":
                return [g_scores_NE * scores_NE * (1 - scores_NE)]
            return [scores_NE * (g_scores_NE - (g_scores_NE * scores_NE).sum(-1, keepdims=True))]

        return [weights_Nk], gradients

    wide = torch.float64 if logits_NE.dtype == torch.float64 else torch.float32
    weights_Nk = _apply(formula, [logits_NE], [wide])[0]
    return torch.from_numpy(chosen_Nk).to(logits_NE.device), weights_Nk


def sort_by_expert(experts_Nk: Tensor, num_experts: int) -> ExpertOrder:
    experts = _integers(experts_Nk).reshape(-1)
    if experts.size and (experts.min() < 0 or experts.max() >= num_experts):
        raise IndexError(f"sort_by_expert: experts {experts.min()}..{experts.max()} of {num_experts}")
    order_M = np.argsort(experts, kind="stable")
    position = np.empty_like(order_M)
    position[order_M] = np.arange(len(order_M))
    sizes_E = np.bincount(experts, minlength=num_experts)
    token_M = order_M // max(experts_Nk.shape[1], 1)
    made = (torch.from_numpy(x).to(experts_Nk.device) for x in (token_M, position.reshape(experts_Nk.shape), sizes_E))
    return ExpertOrder(*made)


def dispatch(x_ND: Tensor, order: ExpertOrder) -> Tensor:
    token_M, position_Nk = _integers(order.token_M), _integers(order.position_Nk)
    return _apply(lambda x_ND: ([x_ND[token_M]], lambda g_MD: [g_MD[position_Nk].sum(1)]), [x_ND], [x_ND.dtype])[0]


def combine(x_MD: Tensor, order: ExpertOrder, weights_Nk: Tensor) -> Tensor:
    position_Nk = _integers(order.position_Nk)

    def formula(x_MD: Array, weights_Nk: Array) -> tuple[list[Array], Gradients]:
        rows_NkD = x_MD[position_Nk]

        def gradients(g_ND: Array) -> list[Array]:
            g_x_MD = np.zeros_like(x_MD)
            g_x_MD[position_Nk] = weights_Nk[..., None] * g_ND[:, None]
            return [g_x_MD, (rows_NkD * g_ND[:, None]).sum(-1)]

        return [(weights_Nk[..., None] * rows_NkD).sum(1)], gradients

    return _apply(formula, [x_MD, weights_Nk], [x_MD.dtype])[0]


def _groups(group_sizes_E: Tensor, rows: int) -> list[slice]:
    """The rows of each group."""
    sizes = _integers(group_sizes_E)
    if sizes.sum() != rows:
        raise ValueError(f"grouped_linear: group sizes add up to {sizes.sum()}, but there are {rows} rows")
    return [slice(end - size, end) for end, size in zip(np.cumsum(sizes), sizes, strict=True)]


def _grouped_grad_input(g_NO: Array, weights_EOI: Array, groups: list[slice]) -> Array:
    g_x_NI = np.zeros((g_NO.shape[0], weights_EOI.shape[2]))
    for rows, weight_OI in zip(groups, weights_EOI, strict=True):
        g_x_NI[rows] = g_NO[rows] @ weight_OI
    return g_x_NI


def _grouped_grad_weight(g_NO: Array, x_NI: Array, groups: list[slice]) -> Array:
    return np.stack([g_NO[rows].T @ x_NI[rows] for rows in groups])


def grouped_linear(x_ND: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    groups = _groups(group_sizes_E, x_ND.shape[0])

    def formula(x_ND: Array, weights_EOI: Array) -> tuple[list[Array], Gradients]:
        y_NO = np.zeros((x_ND.shape[0], weights_EOI.shape[1]))
        for rows, weight_OI in zip(groups, weights_EOI, strict=True):
            y_NO[rows] = x_ND[rows] @ weight_OI.T

        def gradients(g_NO: Array) -> list[Array]:
            return [_grouped_grad_input(g_NO, weights_EOI, groups), _grouped_grad_weight(g_NO, x_ND, groups)]

        return [y_NO], gradients

    return _apply(formula, [x_ND, weights_EOI], [x_ND.dtype])[0]


def grouped_linear_grad_input(dy_NO: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    groups = _groups(group_sizes_E, dy_NO.shape[0])
    return _tensor(_grouped_grad_input(_floats(dy_NO), _floats(weights_EOI), groups), dy_NO)


def grouped_linear_grad_weight(dy_NO: Tensor, x_NI: Tensor, group_sizes_E: Tensor) -> Tensor:
    return _tensor(_grouped_grad_weight(_floats(dy_NO), _floats(x_NI), _groups(group_sizes_E, x_NI.shape[0])), x_NI)


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
    p, m, v = _floats(param), _floats(exp_avg), _floats(exp_avg_sq)
    g = grad_scale * _floats(grad)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    p = (1 - lr * weight_decay) * p - lr * m_hat / (np.sqrt(v_hat) + eps)
    with torch.no_grad():
        for tensor, array in ((param, p), (exp_avg, m), (exp_avg_sq, v)):
            tensor.copy_(_tensor(array, tensor))
        if model_param is not None:
            model_param.copy_(param)


def sum_of_squares(x: Tensor) -> Tensor:
    return torch.tensor((_floats(x) ** 2).sum(), dtype=torch.float64, device=x.device)
