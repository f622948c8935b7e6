"""The `torch` backend: ATen on CPU, CUDA and meta. Nothing here reads a tensor's values in Python.

Letters as in `pyjpllm.ops.api`. The autograd functions keep only their inputs and compute the rest again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyjpllm.ops.memo import TensorMemo
from pyjpllm.ops.rope import inverse_frequencies
from pyjpllm.ops.torch_attention import attention
from pyjpllm.ops.torch_attention_block import attention_block, attention_block_backward
from pyjpllm.ops.torch_experts import (
    combine,
    dispatch,
    grouped_linear,
    grouped_linear_grad_input,
    grouped_linear_grad_weight,
    route,
    sort_by_expert,
)
from pyjpllm.ops.torch_loss import linear_logsumexp, summed_cross_entropy
from pyjpllm.ops.types import RopeScaling

__all__ = [
    "adamw_step",
    "add_rms_norm",
    "attention",
    "attention_block",
    "attention_block_backward",
    "combine",
    "dispatch",
    "embedding",
    "grouped_linear",
    "grouped_linear_grad_input",
    "grouped_linear_grad_weight",
    "linear",
    "linear_grad_input",
    "linear_grad_weight",
    "linear_logsumexp",
    "rms_norm",
    "rotary",
    "route",
    "sort_by_expert",
    "sum_of_squares",
    "summed_cross_entropy",
    "swiglu",
]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are made in: FP64 for FP64, else FP32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


@torch.no_grad()
def linear_grad_input(dy: Tensor, weight: Tensor) -> Tensor:
    return dy @ weight


@torch.no_grad()
def linear_grad_weight(dy: Tensor, x: Tensor) -> Tensor:
    return dy.reshape(-1, dy.shape[-1]).t() @ x.reshape(-1, x.shape[-1])


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(accumulation_dtype(x.dtype))
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x.to(scale.dtype) * scale
        grad = grad.to(scale.dtype)
        grad_weight = torch.linalg.vecdot(grad.flatten(0, -2), normed.flatten(0, -2), dim=0)
        grad = grad * weight
        projection = torch.linalg.vecdot(grad, normed, dim=-1).div_(x.shape[-1]).unsqueeze(-1)
        grad_x = grad.addcmul_(normed, projection, value=-1).mul_(scale)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    result: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return result


def add_rms_norm(x: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = x + update
    return total, rms_norm(total, weight, eps)


_angles = TensorMemo()


def _cos_sin(
    positions: Tensor, head_dim: int, theta: float, scaling: RopeScaling | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of each channel's angle, [..., 1, head_dim]: once for all layers that share positions.

    Turned is ``x * cos + swapped(x) * sin`` with the two halves of x swapped and the sine of the first half negative.
    """

    def make() -> tuple[Tensor, Tensor]:
        frequencies_d = inverse_frequencies(head_dim, theta, scaling, dtype, positions.device)
        angles = (positions.unsqueeze(-1).to(dtype) * frequencies_d).unsqueeze(-2)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)

    key = (head_dim, theta, scaling, dtype)
    pair: tuple[Tensor, Tensor] = _angles.get(positions, key, make)
    return pair


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.direction = direction
        wide = x.to(cos.dtype)
        first, second = wide.chunk(2, dim=-1)
        return (wide * cos).addcmul_(torch.cat([second, first], -1), sin, value=direction).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, -ctx.direction), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    result: Tensor = _Rotate.apply(x, cos, sin, direction)  # type: ignore[no-untyped-call]
    return result


def rotary(
    q: Tensor, k: Tensor, positions: Tensor, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    cos, sin = _cos_sin(positions, q.shape[-1], theta, scaling, accumulation_dtype(q.dtype))
    return _turn(q, cos, sin, 1), _turn(k, cos, sin, 1)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate = grad * up
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad_gate, F.silu(gate).mul_(grad)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    result: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return result


class _WideEmbedding(torch.autograd.Function):
    """Rows of a 16-bit table, with the gradients of a row that is read many times summed in FP32."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows, ctx.dtype = weight.shape[0], weight.dtype
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (ids,) = ctx.saved_tensors
        total = torch.ops.aten.embedding_dense_backward(grad.float(), ids, ctx.rows, -1, False)
        return None, total.to(ctx.dtype)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    if weight.dtype in (torch.float32, torch.float64):
        return F.embedding(ids, weight)
    result: Tensor = _WideEmbedding.apply(ids, weight)  # type: ignore[no-untyped-call]
    return result


# Elements of a flat buffer that are updated at a time where a scaled gradient or a copy is made on the way.
PIECE = 1 << 20


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
    whole = grad_scale == 1.0 and model_param is None and grad.dtype == param.dtype
    size = param.numel() if whole else PIECE
    steps = [torch.full((), float(step), dtype=torch.float32, device=param.device)]
    with torch.no_grad():
        for start in range(0, param.numel(), max(size, 1)):
            p, g, m, v = (tensor[start : start + size] for tensor in (param, grad, exp_avg, exp_avg_sq))
            g = g.to(p.dtype)
            if grad_scale != 1.0:
                g = g * grad_scale
            # What torch.optim.AdamW(fused=True) calls: one pass over memory.
            torch._fused_adamw_(
                [p],
                [g],
                [m],
                [v],
                [],
                steps,
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                weight_decay=weight_decay,
                eps=eps,
                amsgrad=False,
                maximize=False,
            )
            if model_param is not None:
                model_param[start : start + size].copy_(p)


def sum_of_squares(x: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for piece in torch.split(x.detach().reshape(-1), PIECE):  # where x is not FP64, torch makes a copy that is
        total += torch.linalg.vector_norm(piece, dtype=torch.float64).square()
    return total
