"""AdamW on flat buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyjpllm.ops.native.library import OPS, define
from pyjpllm.ops.native.tensors import _native, array, check


def _call_adamw_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    model_param: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float,
) -> None:
    """One step in place on flat buffers."""
    _native.adamw_step(
        array(param),
        array(grad),
        array(exp_avg),
        array(exp_avg_sq),
        None if model_param is None else array(model_param),
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        step,
        grad_scale,
        torch.get_num_threads(),
    )


def _fake_adamw_step(*_args: Any) -> None:
    return None


define(
    "adamw_step(Tensor(a!) param, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!)? model_param, "
    "float lr, float beta1, float beta2, float eps, float weight_decay, int step, float grad_scale) -> ()",
    _call_adamw_step,
    _fake_adamw_step,
)


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
    check("adamw_step", param=param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    fused = model_param if model_param is not None and model_param.dtype == torch.bfloat16 else None
    OPS.adamw_step(param, grad, exp_avg, exp_avg_sq, fused, lr, beta1, beta2, eps, weight_decay, step, grad_scale)
    if model_param is not None and fused is None:
        model_param.copy_(param)
