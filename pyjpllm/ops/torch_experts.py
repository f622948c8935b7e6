"""One linear layer per expert on ATen. Letters as in `pyjpllm.ops.api`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        ctx.sizes = _sizes(group_sizes_E, x_ND.shape[0])
        ctx.save_for_backward(x_ND, weights_EOI)
        out_NO = x_ND.new_empty((x_ND.shape[0], weights_EOI.shape[1]))
        groups = zip(torch.split(x_ND, ctx.sizes), weights_EOI, torch.split(out_NO, ctx.sizes), strict=True)
        for x_nD, weight_OI, out_nO in groups:
            torch.mm(x_nD, weight_OI.t(), out=out_nO)
        return out_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, Tensor, None]:
        x_ND, weights_EOI = ctx.saved_tensors
        grad_x_ND = torch.empty_like(x_ND)
        grad_weights_EOI = torch.empty_like(weights_EOI)
        splits = (torch.split(tensor, ctx.sizes) for tensor in (x_ND, grad_NO, grad_x_ND))
        for x_nD, grad_nO, grad_x_nD, weight_OI, grad_weight_OI in zip(
            *splits, weights_EOI, grad_weights_EOI, strict=True
        ):
            torch.mm(grad_nO, weight_OI, out=grad_x_nD)
            torch.mm(grad_nO.t(), x_nD, out=grad_weight_OI)
        return grad_x_ND, grad_weights_EOI, None


def grouped_linear(x_ND: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    result: Tensor = _GroupedLinear.apply(x_ND, weights_EOI, group_sizes_E)  # type: ignore[no-untyped-call]
    return result
