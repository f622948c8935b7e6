"""SwiGLU, softmax of rows, and casts with a scale. Letters: M rows, N columns."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.ops.native.library import OPS, define, define_gradient, gradient
from pyjpllm.ops.native.tensors import _native, array, check_storage, flat_rows, rows, rows_in_line, shapes


def _call_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    y = gate.new_empty(gate.shape)
    gate_MN, up_MN, y_MN = flat_rows(gate, up, y)
    _native.swiglu(array(gate_MN), array(up_MN), array(y_MN), torch.get_num_threads())
    return y


def _call_swiglu_backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and of up."""
    dgate, dup = gate.new_empty(gate.shape), up.new_empty(up.shape)
    dy_MN, gate_MN, up_MN, dgate_MN, dup_MN = map(array, flat_rows(dy, gate, up, dgate, dup))
    _native.swiglu_backward(dy_MN, gate_MN, up_MN, dgate_MN, dup_MN, torch.get_num_threads())
    return dgate, dup


def _call_softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension."""
    y = x.new_empty(x.shape)
    _native.softmax(array(rows_in_line(x)), array(rows(y)), torch.get_num_threads())
    return y


def _call_softmax_backward(dy: Tensor, y: Tensor) -> Tensor:
    """Gradient of softmax's input, from its output."""
    dx = y.new_empty(y.shape)
    _native.softmax_backward(array(rows_in_line(dy)), array(rows_in_line(y)), array(rows(dx)), torch.get_num_threads())
    return dx


def _fake_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


def _fake_swiglu_backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _fake_softmax(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _fake_softmax_backward(dy: Tensor, y: Tensor) -> Tensor:
    return y.new_empty(y.shape)


def _keep_swiglu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _swiglu_backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
    dgate, dup = OPS.swiglu_backward(dy, *ctx.saved_tensors)
    return dgate, dup


def _keep_softmax(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _softmax_backward(ctx: Any, dy: Tensor) -> Tensor:
    return cast(Tensor, OPS.softmax_backward(dy, *ctx.saved_tensors))


define("swiglu(Tensor gate, Tensor up) -> Tensor", _call_swiglu, _fake_swiglu)
define_gradient(
    "swiglu_backward(Tensor dy, Tensor gate, Tensor up) -> (Tensor, Tensor)",
    _call_swiglu_backward,
    _fake_swiglu_backward,
)
gradient("swiglu", _swiglu_backward, _keep_swiglu)
define("softmax(Tensor x) -> Tensor", _call_softmax, _fake_softmax)
define_gradient("softmax_backward(Tensor dy, Tensor y) -> Tensor", _call_softmax_backward, _fake_softmax_backward)
gradient("softmax", _softmax_backward, _keep_softmax)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, elementwise on two tensors of one shape."""
    check_storage("swiglu", gate=gate, up=up)
    shapes("swiglu", "gate and up of one shape", gate.ndim >= 1 and gate.shape == up.shape, gate, up)
    return cast(Tensor, OPS.swiglu(gate, up))


def softmax(x: Tensor) -> Tensor:
    """``exp(x) / sum(exp(x))`` over the last dimension: x [..., N]. A NaN or an infinite maximum makes a row NaN."""
    check_storage("softmax", x=x)
    shapes("softmax", "x [..., N]", x.ndim >= 1, x)
    return cast(Tensor, OPS.softmax(x))


def cast_to(x: Tensor, out: Tensor, scale: float = 1.0) -> bool:
    """``out = scale * x`` in out's type, in one pass; whether every result is finite. ``out`` may be ``x``.

    FP32, BF16 and FP16, rounded to nearest. What gradients scaled against underflow need (Micikevicius et al., 2017,
    arXiv:1710.03740). No gradient goes through it.
    """
    check_storage("cast_to", x=x)
    check_storage("cast_to", out=out)
    shapes("cast_to", "x and out of one shape", x.ndim >= 1 and x.shape == out.shape, x, out)
    x_MN, out_MN = flat_rows(x.detach(), out.detach())
    if out_MN.data_ptr() != out.data_ptr():
        raise ValueError(f"cast_to: out cannot be written as rows, it has stride {tuple(out.stride())}")
    return _native.cast(array(x_MN), array(out_MN), scale, torch.get_num_threads())
