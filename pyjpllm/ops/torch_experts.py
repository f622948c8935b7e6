"""Mixture of experts on ATen: routing, the way of rows to the experts and back, a linear layer for each.

Letters as in `pyjpllm.ops.api`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyjpllm.ops.types import ExpertOrder, Scoring


def route(
    logits_NE: Tensor, k: int, *, scoring: Scoring, normalize: bool, bias_E: Tensor | None
) -> tuple[Tensor, Tensor]:
    wide_NE = logits_NE if logits_NE.dtype == torch.float64 else logits_NE.float()
    scores_NE = wide_NE.sigmoid() if scoring == "sigmoid" else wide_NE.softmax(-1)
    # Without a bias by the logits themselves: a score may have rounded two of them to one number.
    keys_NE = wide_NE.detach() if bias_E is None else scores_NE.detach() + bias_E
    experts_Nk = keys_NE.sort(dim=-1, descending=True, stable=True).indices[:, :k].contiguous()
    weights_Nk = scores_NE.gather(-1, experts_Nk)
    if normalize and scoring == "sigmoid":
        weights_Nk = weights_Nk / weights_Nk.sum(-1, keepdim=True)
    elif normalize:  # the quotient of two scores does not depend on the other logits
        weights_Nk = wide_NE.gather(-1, experts_Nk).softmax(-1)
    return experts_Nk, weights_Nk


def sort_by_expert(experts_Nk: Tensor, num_experts: int) -> ExpertOrder:
    experts_M = experts_Nk.reshape(-1)
    order_M = experts_M.argsort(stable=True)
    token_M = order_M.div(max(experts_Nk.shape[1], 1), rounding_mode="floor")
    position_M = torch.empty_like(order_M)
    position_M[order_M] = torch.arange(order_M.shape[0], device=order_M.device)
    sizes_E = torch.zeros(num_experts, dtype=torch.int64, device=order_M.device)
    try:
        sizes_E.scatter_add_(0, experts_M, torch.ones_like(experts_M))
    except RuntimeError as error:
        raise IndexError(f"sort_by_expert: an expert outside of 0..{num_experts - 1}") from error
    return ExpertOrder(token_M, position_M.view(experts_Nk.shape), sizes_E)


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, token_M: Tensor, position_Nk: Tensor) -> Tensor:
        ctx.save_for_backward(position_Nk)
        return x_ND.index_select(0, token_M)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor, None, None]:
        (position_Nk,) = ctx.saved_tensors
        wide = torch.promote_types(grad_MD.dtype, torch.float32)
        return grad_MD[position_Nk].sum(1, dtype=wide).to(grad_MD.dtype), None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, position_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
        ctx.save_for_backward(x_MD, position_Nk, weights_Nk)
        rows_NkD = x_MD[position_Nk].to(torch.promote_types(x_MD.dtype, torch.float32))
        return rows_NkD.mul_(weights_Nk.unsqueeze(-1)).sum(1).to(x_MD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, Tensor]:
        x_MD, position_Nk, weights_Nk = ctx.saved_tensors
        wide = torch.promote_types(x_MD.dtype, torch.float32)
        grad_N1D = grad_ND.to(wide).unsqueeze(1)
        grad_x_MD = torch.empty_like(x_MD)
        grad_x_MD[position_Nk] = (grad_N1D * weights_Nk.unsqueeze(-1)).to(x_MD.dtype)
        grad_weights_Nk = (x_MD[position_Nk].to(wide) * grad_N1D).sum(-1)
        return grad_x_MD, None, grad_weights_Nk.to(weights_Nk.dtype)


def dispatch(x_ND: Tensor, order: ExpertOrder) -> Tensor:
    result: Tensor = _Dispatch.apply(x_ND, order.token_M, order.position_Nk)  # type: ignore[no-untyped-call]
    return result


def combine(x_MD: Tensor, order: ExpertOrder, weights_Nk: Tensor) -> Tensor:
    result: Tensor = _Combine.apply(x_MD, order.position_Nk, weights_Nk)  # type: ignore[no-untyped-call]
    return result


def _sizes(group_sizes_E: Tensor, rows: int) -> list[int]:
    """Sizes of the groups as numbers; a meta tensor has none, there only the shapes matter."""
    groups = group_sizes_E.shape[0]
    if group_sizes_E.is_meta:
        return [rows // groups + (group < rows % groups) for group in range(groups)]
    sizes: list[int] = group_sizes_E.tolist()
    if sum(sizes) != rows:
        raise ValueError(f"grouped_linear: group sizes add up to {sum(sizes)}, but there are {rows} rows")
    return sizes


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, weights_EOI, group_sizes_E)
        sizes = _sizes(group_sizes_E, x_ND.shape[0])
        out_NO = x_ND.new_empty((x_ND.shape[0], weights_EOI.shape[1]))
        groups = zip(torch.split(x_ND, sizes), weights_EOI, torch.split(out_NO, sizes), strict=True)
        for x_nD, weight_OI, out_nO in groups:
            torch.mm(x_nD, weight_OI.t(), out=out_nO)
        return out_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_ND, weights_EOI, group_sizes_E = ctx.saved_tensors
        need_x, need_weights = ctx.needs_input_grad[:2]
        grad_x_ND = grouped_linear_grad_input(grad_NO, weights_EOI, group_sizes_E) if need_x else None
        grad_weights_EOI = grouped_linear_grad_weight(grad_NO, x_ND, group_sizes_E) if need_weights else None
        return grad_x_ND, grad_weights_EOI, None


def grouped_linear(x_ND: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    result: Tensor = _GroupedLinear.apply(x_ND, weights_EOI, group_sizes_E)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def grouped_linear_grad_input(dy_NO: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    sizes = _sizes(group_sizes_E, dy_NO.shape[0])
    dx_NI = dy_NO.new_empty((dy_NO.shape[0], weights_EOI.shape[2]))
    for dy_nO, weight_OI, dx_nI in zip(torch.split(dy_NO, sizes), weights_EOI, torch.split(dx_NI, sizes), strict=True):
        torch.mm(dy_nO, weight_OI, out=dx_nI)
    return dx_NI


@torch.no_grad()
def grouped_linear_grad_weight(dy_NO: Tensor, x_NI: Tensor, group_sizes_E: Tensor) -> Tensor:
    sizes = _sizes(group_sizes_E, x_NI.shape[0])
    dweights_EOI = x_NI.new_empty((group_sizes_E.shape[0], dy_NO.shape[1], x_NI.shape[1]))
    for dy_nO, x_nI, dweight_OI in zip(torch.split(dy_NO, sizes), torch.split(x_NI, sizes), dweights_EOI, strict=True):
        torch.mm(dy_nO.t(), x_nI, out=dweight_OI)
    return dweights_EOI
