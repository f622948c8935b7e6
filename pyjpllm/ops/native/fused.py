"""Root-mean-square norm and SwiGLU. Letters: M rows, D width."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.ops.native.library import OPS, define, define_gradient, gradient
from pyjpllm.ops.native.tensors import _native, array, check, flat_rows, rows, rows_in_line, shapes


def _call_rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of each row [..., D], and 1 / sqrt(mean(x^2) + eps) of each row [M] for the backward."""
    x_MD = rows_in_line(x)
    y = x.new_empty(x.shape)
    rstd_M = x.new_empty(x_MD.shape[0])
    weight = array(weight_D.contiguous())
    _native.rms_norm(array(x_MD), weight, eps, array(rows(y)), array(rstd_M), torch.get_num_threads())
    return y, rstd_M


def _call_rms_norm_backward(dy: Tensor, x: Tensor, weight_D: Tensor, rstd_M: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of weight."""
    dx, dweight_D = x.new_empty(x.shape), weight_D.new_empty(weight_D.shape)
    _native.rms_norm_backward(
        array(rows_in_line(dy)),
        array(rows_in_line(x)),
        array(weight_D.contiguous()),
        array(rstd_M),
        array(rows(dx)),
        array(dweight_D),
        torch.get_num_threads(),
    )
    return dx, dweight_D


def _call_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    y = gate.new_empty(gate.shape)
    gate_MD, up_MD, y_MD = flat_rows(gate, up, y)
    _native.swiglu(array(gate_MD), array(up_MD), array(y_MD), torch.get_num_threads())
    return y


def _call_swiglu_backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and of up."""
    dgate, dup = gate.new_empty(gate.shape), up.new_empty(up.shape)
    dy_MD, gate_MD, up_MD, dgate_MD, dup_MD = map(array, flat_rows(dy, gate, up, dgate, dup))
    _native.swiglu_backward(dy_MD, gate_MD, up_MD, dgate_MD, dup_MD, torch.get_num_threads())
    return dgate, dup


def _fake_rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(math.prod(x.shape[:-1]))


def _fake_rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _keep_rms_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])


def _rms_norm_backward(ctx: Any, dy: Tensor, _drstd: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
    dx, dweight = OPS.rms_norm_backward(dy, *ctx.saved_tensors)
    return dx, dweight, None


define("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)", _call_rms_norm, _fake_rms_norm)
define_gradient(
    "rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor rstd) -> (Tensor, Tensor)",
    _call_rms_norm_backward,
    _fake_rms_norm_backward,
)
gradient("rms_norm", _rms_norm_backward, _keep_rms_norm)


def _fake_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


def _fake_swiglu_backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _keep_swiglu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _swiglu_backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
    dgate, dup = OPS.swiglu_backward(dy, *ctx.saved_tensors)
    return dgate, dup


define("swiglu(Tensor gate, Tensor up) -> Tensor", _call_swiglu, _fake_swiglu)
define_gradient(
    "swiglu_backward(Tensor dy, Tensor gate, Tensor up) -> (Tensor, Tensor)",
    _call_swiglu_backward,
    _fake_swiglu_backward,
)
gradient("swiglu", _swiglu_backward, _keep_swiglu)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension: x [..., D], weight [D]."""
    check("rms_norm", x=x, weight=weight)
    shapes("rms_norm", "x [..., D] and weight [D]", x.ndim >= 1 and weight.shape == x.shape[-1:], x, weight)
    return cast(Tensor, OPS.rms_norm(x, weight, eps)[0])


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, elementwise on two tensors of one shape."""
    check("swiglu", gate=gate, up=up)
    shapes("swiglu", "gate and up of one shape", gate.ndim >= 1 and gate.shape == up.shape, gate, up)
    return cast(Tensor, OPS.swiglu(gate, up))
