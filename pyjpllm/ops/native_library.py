"""The native operations as torch sees them: schemas, shapes for tracing, gradients (`torch.library`).

Autograd, activation checkpointing and torch.compile treat `torch.ops.jpllm.*` as any operator of torch's own.
Letters: M rows, I inputs, O outputs, D width, N tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyjpllm.ops import native_calls as calls

LIBRARY = torch.library.Library("jpllm", "DEF")  # type: ignore[no-untyped-call]
OPS = torch.ops.jpllm


def _define(signature: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    name = signature.split("(", 1)[0]
    LIBRARY.define(signature, tags=torch.Tag.pt2_compliant_tag)  # type: ignore[no-untyped-call]
    LIBRARY.impl(name, kernel, "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"jpllm::{name}", fake, lib=LIBRARY)


def _define_gradient(signature: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """A backward operation: its own gradient is an error. Without one autograd would take it for zero."""

    name = f"jpllm::{signature.split('(', 1)[0]}"

    def second(ctx: Any, *_grads: Tensor) -> None:
        raise RuntimeError(f"{name}: second derivatives are not implemented")

    _define(signature, kernel, fake)
    torch.library.register_autograd(name, second, lib=LIBRARY)


def _gradient(name: str, backward: Callable[..., Any], setup: Callable[..., None]) -> None:
    torch.library.register_autograd(f"jpllm::{name}", backward, setup_context=setup, lib=LIBRARY)


# --- linear ----------------------------------------------------------------------------------------------------------


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


_define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", calls.linear, _fake_linear)
_define_gradient(
    "linear_grad_input(Tensor dy, Tensor weight) -> Tensor", calls.linear_grad_input, _fake_linear_grad_input
)
_define_gradient(
    "linear_grad_weight(Tensor dy, Tensor x) -> Tensor", calls.linear_grad_weight, _fake_linear_grad_weight
)
_define_gradient("linear_grad_bias(Tensor dy) -> Tensor", calls.linear_grad_bias, _fake_linear_grad_bias)
_gradient("linear", _linear_backward, _keep_linear)


# --- rms_norm --------------------------------------------------------------------------------------------------------


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


_define("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)", calls.rms_norm, _fake_rms_norm)
_define_gradient(
    "rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor rstd) -> (Tensor, Tensor)",
    calls.rms_norm_backward,
    _fake_rms_norm_backward,
)
_gradient("rms_norm", _rms_norm_backward, _keep_rms_norm)


# --- swiglu ----------------------------------------------------------------------------------------------------------


def _fake_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


def _fake_swiglu_backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _keep_swiglu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _swiglu_backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
    dgate, dup = OPS.swiglu_backward(dy, *ctx.saved_tensors)
    return dgate, dup


_define("swiglu(Tensor gate, Tensor up) -> Tensor", calls.swiglu, _fake_swiglu)
_define_gradient(
    "swiglu_backward(Tensor dy, Tensor gate, Tensor up) -> (Tensor, Tensor)",
    calls.swiglu_backward,
    _fake_swiglu_backward,
)
_gradient("swiglu", _swiglu_backward, _keep_swiglu)


# --- linear_logsumexp ------------------------------------------------------------------------------------------------


def _fake_linear_logsumexp(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape[0]), hidden.new_empty(hidden.shape[0])


def _fake_linear_logsumexp_backward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    lse: Tensor,
    dlse: Tensor,
    dtarget_logit: Tensor,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    return (
        hidden.new_empty(hidden.shape if need_hidden else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,)),
    )


def _keep_linear_logsumexp(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[0])


def _linear_logsumexp_backward(
    ctx: Any, dlse: Tensor, dtarget_logit: Tensor
) -> tuple[Tensor | None, Tensor | None, None]:
    hidden, weight, targets, lse = ctx.saved_tensors
    need_hidden, need_weight = ctx.needs_input_grad[:2]
    dhidden, dweight = OPS.linear_logsumexp_backward(
        hidden, weight, targets, lse, dlse, dtarget_logit, need_hidden, need_weight
    )
    return dhidden if need_hidden else None, dweight if need_weight else None, None


_define(
    "linear_logsumexp(Tensor hidden, Tensor weight, Tensor targets) -> (Tensor, Tensor)",
    calls.linear_logsumexp,
    _fake_linear_logsumexp,
)
_define_gradient(
    "linear_logsumexp_backward(Tensor hidden, Tensor weight, Tensor targets, Tensor lse, Tensor dlse, "
    "Tensor dtarget_logit, bool need_hidden, bool need_weight) -> (Tensor, Tensor)",
    calls.linear_logsumexp_backward,
    _fake_linear_logsumexp_backward,
)
_gradient("linear_logsumexp", _linear_logsumexp_backward, _keep_linear_logsumexp)


# --- adamw_step ------------------------------------------------------------------------------------------------------


def _fake_adamw_step(*_args: Any) -> None:
    return None


_define(
    "adamw_step(Tensor(a!) param, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!)? model_param, "
    "float lr, float beta1, float beta2, float eps, float weight_decay, int step, float grad_scale) -> ()",
    calls.adamw_step,
    _fake_adamw_step,
)
