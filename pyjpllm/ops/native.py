"""The `native` backend: this project's own kernels (kernels/, through csrc/), on the CPU in FP32.

The functions are those of `pyjpllm.ops.api`; what is missing here is taken from `torch` by the registry, which says so.
Importing this module raises ImportError where the kernels are not built.
Letters: I inputs, O outputs, D width, N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from pyjpllm.errors import UserError
from pyjpllm.ops.native_library import OPS

__all__ = ["NAME", "adamw_step", "linear", "linear_logsumexp", "rms_norm", "swiglu"]

NAME = "native"


def _check(operation: str, **tensors: Tensor | None) -> None:
    for name, t in tensors.items():
        if t is None:
            continue
        if t.dtype != torch.float32:
            dtype = str(t.dtype).removeprefix("torch.")
            raise UserError(
                f"{operation}: the native kernels compute in float32 and {name} is {dtype}; "
                "set precision.dtype = 'fp32', or train.kernels = 'torch'"
            )
        if t.device.type not in ("cpu", "meta"):
            raise UserError(
                f"{operation}: the native kernels compute on the CPU and {name} is on {t.device}; "
                "set train.kernels = 'torch'"
            )


def _shapes(operation: str, needed: str, ok: bool, *tensors: Tensor | None) -> None:
    if not ok:
        got = ", ".join(str(tuple(t.shape)) for t in tensors if t is not None)
        raise ValueError(f"{operation}: {needed} are needed, got {got}")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: x [..., I], weight [O, I], bias [O] -> [..., O]."""
    _check("linear", x=x, weight=weight, bias=bias)
    fits = x.ndim >= 1 and weight.ndim == 2 and x.shape[-1] == weight.shape[1]
    fits = fits and (bias is None or bias.shape == weight.shape[:1])
    _shapes("linear", "x [..., I], weight [O, I] and bias [O]", fits, x, weight, bias)
    return cast(Tensor, OPS.linear(x, weight, bias))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension: x [..., D], weight [D]."""
    _check("rms_norm", x=x, weight=weight)
    _shapes("rms_norm", "x [..., D] and weight [D]", x.ndim >= 1 and weight.shape == x.shape[-1:], x, weight)
    return cast(Tensor, OPS.rms_norm(x, weight, eps)[0])


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, elementwise on two tensors of one shape."""
    _check("swiglu", gate=gate, up=up)
    _shapes("swiglu", "gate and up of one shape", gate.ndim >= 1 and gate.shape == up.shape, gate, up)
    return cast(Tensor, OPS.swiglu(gate, up))


def linear_logsumexp(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """(log-sum-exp [N], target's logit [N]) of ``hidden @ weight.T``; see `pyjpllm.ops.api.linear_logsumexp`."""
    _check("linear_logsumexp", hidden=hidden_ND, weight=weight_VD)
    fits = hidden_ND.ndim == 2 and weight_VD.ndim == 2 and hidden_ND.shape[1] == weight_VD.shape[1]
    fits = fits and targets_N.shape == hidden_ND.shape[:1]
    _shapes("linear_logsumexp", "hidden [N, D], weight [V, D] and targets [N]", fits, hidden_ND, weight_VD, targets_N)
    return cast("tuple[Tensor, Tensor]", OPS.linear_logsumexp(hidden_ND, weight_VD, targets_N))


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
    """One AdamW step in place on contiguous flat buffers; ``model_param`` may be bfloat16, float32 or float16.

    A bfloat16 copy is written by the kernel in the same pass, another by a copy after it.
    """
    _check("adamw_step", param=param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    fused = model_param if model_param is not None and model_param.dtype == torch.bfloat16 else None
    OPS.adamw_step(param, grad, exp_avg, exp_avg_sq, fused, lr, beta1, beta2, eps, weight_decay, step, grad_scale)
    if model_param is not None and fused is None:
        model_param.copy_(param)
