"""A linear layer in FP32, BF16 or FP16. Letters: I inputs, O outputs."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.ops.native.library import OPS, define, define_gradient, gradient
from pyjpllm.ops.native.prepack import packed_weight
from pyjpllm.ops.native.tensors import _native, array, check_storage, rows, rows_in_line, shapes
from pyjpllm.ops.sums import math_of


def _multiply(a: Tensor, b: Tensor, c: Tensor, bias: Tensor | None = None, packed: _native.Array | None = None) -> None:
    """``c = a @ b + bias``, summed as `pyjpllm.ops.use_math` says."""
    math, chunk = math_of(a.dtype)
    added = None if bias is None else array(bias.contiguous())
    threads = torch.get_num_threads()
    _native.gemm(array(a), array(b), array(c), added, False, threads, math=math, math_chunk=chunk, packed=packed)


def _call_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``: [..., I] -> [..., O]."""
    y = x.new_empty((*x.shape[:-1], weight_OI.shape[0]))
    x_MI = rows(x)
    _multiply(x_MI, weight_OI.t(), rows(y), bias_O, packed_weight(weight_OI, x_MI.shape[0]))
    return y


def _call_linear_grad_input(dy: Tensor, weight_OI: Tensor) -> Tensor:
    """``dy @ weight``: [..., O] -> [..., I]."""
    dx = dy.new_empty((*dy.shape[:-1], weight_OI.shape[1]))
    _multiply(rows(dy), weight_OI, rows(dx))
    return dx


def _call_linear_grad_weight(dy: Tensor, x: Tensor) -> Tensor:
    """``dy.T @ x`` over all rows: [..., O] and [..., I] -> [O, I]."""
    dweight_OI = x.new_empty((dy.shape[-1], x.shape[-1]))
    _multiply(rows(dy).t(), rows(x), dweight_OI)
    return dweight_OI


def _call_linear_grad_bias(dy: Tensor) -> Tensor:
    """Sum of dy over all rows: [..., O] -> [O]."""
    dbias_O = dy.new_empty(dy.shape[-1], dtype=torch.float32)
    _native.column_sum(array(rows_in_line(dy)), array(dbias_O), torch.get_num_threads())
    return dbias_O.to(dy.dtype)


def _fake_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _fake_linear_grad_input(dy: Tensor, weight: Tensor) -> Tensor:
    return dy.new_empty((*dy.shape[:-1], weight.shape[1]))


def _fake_linear_grad_weight(dy: Tensor, x: Tensor) -> Tensor:
    return x.new_empty((dy.shape[-1], x.shape[-1]))


def _fake_linear_grad_bias(dy: Tensor) -> Tensor:
    return dy.new_empty(dy.shape[-1])


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _ = inputs
    need_x, need_weight = ctx.needs_input_grad[:2]
    ctx.save_for_backward(x if need_weight else None, weight if need_x else None)


def _linear_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
    return (
        OPS.linear_grad_input(dy, weight) if need_x else None,
        OPS.linear_grad_weight(dy, x) if need_weight else None,
        OPS.linear_grad_bias(dy) if need_bias else None,
    )


define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _call_linear, _fake_linear)
define_gradient(
    "linear_grad_input(Tensor dy, Tensor weight) -> Tensor", _call_linear_grad_input, _fake_linear_grad_input
)
define_gradient("linear_grad_weight(Tensor dy, Tensor x) -> Tensor", _call_linear_grad_weight, _fake_linear_grad_weight)
define_gradient("linear_grad_bias(Tensor dy) -> Tensor", _call_linear_grad_bias, _fake_linear_grad_bias)
gradient("linear", _linear_backward, _keep_linear)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: x [..., I], weight [O, I], bias [O] -> [..., O].

    float32, bfloat16 or float16, one type for all; summed in FP32 and rounded once, and so are the gradients.
    """
    check_storage("linear", x=x, weight=weight, bias=bias)
    fits = x.ndim >= 1 and weight.ndim == 2 and x.shape[-1] == weight.shape[1]
    fits = fits and (bias is None or bias.shape == weight.shape[:1])
    shapes("linear", "x [..., I], weight [O, I] and bias [O]", fits, x, weight, bias)
    return cast(Tensor, OPS.linear(x, weight, bias))


@torch.no_grad()
def linear_grad_input(dy: Tensor, weight: Tensor) -> Tensor:
    """``dy @ weight``: dy [..., O], weight [O, I] -> [..., I]; types and sums as in `linear`."""
    check_storage("linear_grad_input", dy=dy, weight=weight)
    fits = dy.ndim >= 1 and weight.ndim == 2 and dy.shape[-1] == weight.shape[0]
    shapes("linear_grad_input", "dy [..., O] and weight [O, I]", fits, dy, weight)
    return cast(Tensor, OPS.linear_grad_input(dy, weight))


@torch.no_grad()
def linear_grad_weight(dy: Tensor, x: Tensor) -> Tensor:
    """``dy.T @ x`` over all rows: dy [..., O], x [..., I] -> [O, I]; types and sums as in `linear`."""
    check_storage("linear_grad_weight", dy=dy, x=x)
    fits = dy.ndim >= 1 and dy.shape[:-1] == x.shape[:-1]
    shapes("linear_grad_weight", "dy [..., O] and x [..., I]", fits, dy, x)
    return cast(Tensor, OPS.linear_grad_weight(dy, x))
