"""Norms: root-mean-square, alone or of a sum with the residual stream, and layer norm. Letters: M rows, D width."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.ops.native.library import OPS, define, define_gradient, gradient
from pyjpllm.ops.native.tensors import _native, array, check_storage, rows, rows_in_line, shapes


def _new_rows(x: Tensor) -> Tensor:
    """One FP32 number for each row of x [..., D]."""
    return x.new_empty(math.prod(x.shape[:-1]), dtype=torch.float32)


def _call_rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of each row [..., D], and 1 / sqrt(mean(x^2) + eps) of each row [M] for the backward."""
    y, rstd_M = x.new_empty(x.shape), _new_rows(x)
    weight = array(weight_D.contiguous())
    _native.rms_norm(
        array(rows_in_line(x)), None, weight, eps, None, array(rows(y)), array(rstd_M), torch.get_num_threads()
    )
    return y, rstd_M


def _call_add_rms_norm(x: Tensor, update: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """x + update, its norm, and 1 / sqrt(mean((x + update)^2) + eps) of each row [M] for the backward."""
    total, y, rstd_M = x.new_empty(x.shape), x.new_empty(x.shape), _new_rows(x)
    _native.rms_norm(
        array(rows_in_line(x)),
        array(rows_in_line(update)),
        array(weight_D.contiguous()),
        eps,
        array(rows(total)),
        array(rows(y)),
        array(rstd_M),
        torch.get_num_threads(),
    )
    return total, y, rstd_M


def _call_rms_norm_backward(
    dy: Tensor, x: Tensor, weight_D: Tensor, rstd_M: Tensor, dsum: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of weight; dsum is added to that of x."""
    dx, dweight_D = x.new_empty(x.shape), weight_D.new_empty(weight_D.shape)
    _native.rms_norm_backward(
        array(rows_in_line(dy)),
        array(rows_in_line(x)),
        None if dsum is None else array(rows_in_line(dsum)),
        array(weight_D.contiguous()),
        array(rstd_M),
        array(rows(dx)),
        array(dweight_D),
        torch.get_num_threads(),
    )
    return dx, dweight_D


def _call_layer_norm(x: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of each row [..., D], and each row's mean and 1 / sqrt(variance + eps), [M], for the backward."""
    y, mean_M, rstd_M = x.new_empty(x.shape), _new_rows(x), _new_rows(x)
    _native.layer_norm(
        array(rows_in_line(x)),
        array(weight_D.contiguous()),
        array(bias_D.contiguous()),
        eps,
        array(rows(y)),
        array(mean_M),
        array(rstd_M),
        torch.get_num_threads(),
    )
    return y, mean_M, rstd_M


def _call_layer_norm_backward(
    dy: Tensor, x: Tensor, weight_D: Tensor, mean_M: Tensor, rstd_M: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    dx, dweight_D, dbias_D = (
        x.new_empty(x.shape),
        weight_D.new_empty(weight_D.shape),
        weight_D.new_empty(weight_D.shape),
    )
    _native.layer_norm_backward(
        array(rows_in_line(dy)),
        array(rows_in_line(x)),
        array(weight_D.contiguous()),
        array(mean_M),
        array(rstd_M),
        array(rows(dx)),
        array(dweight_D),
        array(dbias_D),
        torch.get_num_threads(),
    )
    return dx, dweight_D, dbias_D


def _fake_rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), _new_rows(x)


def _fake_add_rms_norm(x: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape), _new_rows(x)


def _fake_rms_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, dsum: Tensor | None
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _fake_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), _new_rows(x), _new_rows(x)


def _fake_layer_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _keep_rms_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])


def _rms_norm_backward(ctx: Any, dy: Tensor, _drstd: Tensor | None) -> tuple[Tensor, Tensor, None]:
    dx, dweight = OPS.rms_norm_backward(dy, *ctx.saved_tensors, None)
    return dx, dweight, None


def _keep_add_rms_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    total, _, rstd = output
    ctx.mark_non_differentiable(rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(total, inputs[2], rstd)


def _add_rms_norm_backward(
    ctx: Any, dsum: Tensor | None, dy: Tensor | None, _drstd: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    if dy is None:
        return dsum, dsum, None, None
    dx, dweight = OPS.rms_norm_backward(dy, *ctx.saved_tensors, dsum)
    return dx, dx, dweight, None


def _keep_layer_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:2], *output[1:])


def _layer_norm_backward(
    ctx: Any, dy: Tensor, _dmean: Tensor | None, _drstd: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, None]:
    dx, dweight, dbias = OPS.layer_norm_backward(dy, *ctx.saved_tensors)
    return dx, dweight, dbias, None


define("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)", _call_rms_norm, _fake_rms_norm)
define(
    "add_rms_norm(Tensor x, Tensor update, Tensor weight, float eps) -> (Tensor, Tensor, Tensor)",
    _call_add_rms_norm,
    _fake_add_rms_norm,
)
define_gradient(
    "rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor rstd, Tensor? dsum) -> (Tensor, Tensor)",
    _call_rms_norm_backward,
    _fake_rms_norm_backward,
)
gradient("rms_norm", _rms_norm_backward, _keep_rms_norm)
gradient("add_rms_norm", _add_rms_norm_backward, _keep_add_rms_norm)
define(
    "layer_norm(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    _call_layer_norm,
    _fake_layer_norm,
)
define_gradient(
    "layer_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor mean, Tensor rstd) -> (Tensor, Tensor, Tensor)",
    _call_layer_norm_backward,
    _fake_layer_norm_backward,
)
gradient("layer_norm", _layer_norm_backward, _keep_layer_norm)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension: x [..., D], weight [D]."""
    check_storage("rms_norm", x=x, weight=weight)
    shapes("rms_norm", "x [..., D] and weight [D]", x.ndim >= 1 and weight.shape == x.shape[-1:], x, weight)
    return cast(Tensor, OPS.rms_norm(x, weight, eps)[0])


def add_rms_norm(x: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``h = x + update`` and ``rms_norm(h, weight, eps)`` in one pass: x and update [..., D], weight [D]."""
    check_storage("add_rms_norm", x=x, update=update, weight=weight)
    fits = x.ndim >= 1 and update.shape == x.shape and weight.shape == x.shape[-1:]
    shapes("add_rms_norm", "x and update [..., D] and weight [D]", fits, x, update, weight)
    total, y, _ = OPS.add_rms_norm(x, update, weight, eps)
    return total, y


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last dimension: x [..., D], weight and bias [D].

    Ba, Kiros and Hinton, 2016, arXiv:1607.06450.
    """
    check_storage("layer_norm", x=x, weight=weight, bias=bias)
    fits = x.ndim >= 1 and weight.shape == bias.shape == x.shape[-1:]
    shapes("layer_norm", "x [..., D], weight [D] and bias [D]", fits, x, weight, bias)
    return cast(Tensor, OPS.layer_norm(x, weight, bias, eps)[0])
