"""What an optimizer does with flat buffers: AdamW, and the sum of squares that a gradient's norm is made of."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.ops.native.library import OPS, define
from pyjpllm.ops.native.tensors import _native, array, check, check_storage


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


def _call_sum_of_squares(x: Tensor) -> Tensor:
    """The sum of x^2 in FP64, a scalar."""
    return x.new_full((), _native.sum_of_squares(array(x.reshape(-1)), torch.get_num_threads()), dtype=torch.float64)


def _fake_sum_of_squares(x: Tensor) -> Tensor:
    return x.new_empty((), dtype=torch.float64)


define("sum_of_squares(Tensor x) -> Tensor", _call_sum_of_squares, _fake_sum_of_squares)


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
    """One AdamW step in place on contiguous flat buffers, in one pass; FP32 but for ``grad`` and ``model_param``."""
    check("adamw_step", param=param, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    for copy in ({"grad": grad}, {"model_param": model_param}):
        check_storage("adamw_step", **copy)
    OPS.adamw_step(param, grad, exp_avg, exp_avg_sq, model_param, lr, beta1, beta2, eps, weight_decay, step, grad_scale)


def sum_of_squares(x: Tensor) -> Tensor:
    """The sum of x^2 over all elements in FP64, a scalar; finite where and only where all of x is. No gradient."""
    check_storage("sum_of_squares", x=x)
    return cast(Tensor, OPS.sum_of_squares(x.detach()))
