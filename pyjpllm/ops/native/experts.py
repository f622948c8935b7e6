"""Mixture of experts: routing, the way of tokens to the experts and back, and their linear layers.

Letters: N tokens, E experts, k experts of a token, M = N k rows in the order of the experts, D width, I inputs,
O outputs.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.ops.native.library import OPS, define, define_gradient, gradient
from pyjpllm.ops.native.tensors import _native, array, check_storage, rows_in_line, shapes
from pyjpllm.ops.sums import math_of
from pyjpllm.ops.types import ExpertOrder, Scoring


def _call_route(
    logits_NE: Tensor, bias_E: Tensor | None, k: int, sigmoid: bool, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Each token's experts [N, k], and their weights [N, k] in FP32."""
    experts_Nk, weights_Nk = _fake_route(logits_NE, bias_E, k, sigmoid, normalize)
    bias = None if bias_E is None else array(bias_E.contiguous())
    outputs = array(experts_Nk), array(weights_Nk)
    _native.route(array(rows_in_line(logits_NE)), bias, sigmoid, normalize, *outputs, torch.get_num_threads())
    return experts_Nk, weights_Nk


def _call_route_backward(
    dweights_Nk: Tensor, logits_NE: Tensor, experts_Nk: Tensor, weights_Nk: Tensor, sigmoid: bool, normalize: bool
) -> Tensor:
    """Gradient of the logits."""
    dlogits_NE = logits_NE.new_empty(logits_NE.shape)
    _native.route_backward(
        array(dweights_Nk.contiguous()),
        array(rows_in_line(logits_NE)),
        sigmoid,
        normalize,
        array(experts_Nk),
        array(weights_Nk),
        array(dlogits_NE),
        torch.get_num_threads(),
    )
    return dlogits_NE


def _call_sort_by_expert(experts_Nk: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """The token of each row [M], the row of each token and choice [N, k], the rows of each expert [E]."""
    token_M, position_Nk, sizes_E = _fake_sort_by_expert(experts_Nk, num_experts)
    experts = array(experts_Nk.contiguous())
    try:
        _native.sort_by_expert(experts, array(token_M), array(position_Nk), array(sizes_E))
    except IndexError:
        low, high = int(experts_Nk.min()), int(experts_Nk.max())
        raise IndexError(f"sort_by_expert: experts {low}..{high} of {num_experts}") from None
    return token_M, position_Nk, sizes_E


def _call_dispatch(x_ND: Tensor, token_M: Tensor, position_Nk: Tensor) -> Tensor:
    """The tokens' rows in the order of the experts: [N, D] -> [M, D]."""
    y_MD = x_ND.new_empty((token_M.shape[0], x_ND.shape[1]))
    _native.embedding(array(token_M.contiguous()), array(rows_in_line(x_ND)), array(y_MD), torch.get_num_threads())
    return y_MD


def _call_dispatch_backward(dy_MD: Tensor, position_Nk: Tensor) -> Tensor:
    """Sums of a token's rows: [M, D] -> [N, D]."""
    dx_ND = dy_MD.new_empty((position_Nk.shape[0], dy_MD.shape[1]))
    position = array(position_Nk.contiguous())
    _native.combine(array(rows_in_line(dy_MD)), position, None, array(dx_ND), torch.get_num_threads())
    return dx_ND


def _call_combine(x_MD: Tensor, position_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
    """Sums of a token's rows times their weights: [M, D] -> [N, D]."""
    y_ND = x_MD.new_empty((position_Nk.shape[0], x_MD.shape[1]))
    position, weights = array(position_Nk.contiguous()), array(weights_Nk.contiguous())
    _native.combine(array(rows_in_line(x_MD)), position, weights, array(y_ND), torch.get_num_threads())
    return y_ND


def _call_combine_backward(
    dy_ND: Tensor, x_MD: Tensor, position_Nk: Tensor, weights_Nk: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weights."""
    dx_MD, dweights_Nk = _fake_combine_backward(dy_ND, x_MD, position_Nk, weights_Nk)
    _native.combine_backward(
        array(rows_in_line(dy_ND)),
        array(rows_in_line(x_MD)),
        array(position_Nk.contiguous()),
        array(weights_Nk.contiguous()),
        array(dx_MD),
        array(dweights_Nk),
        torch.get_num_threads(),
    )
    return dx_MD, dweights_Nk


def _sizes(group_sizes_E: Tensor, rows: int) -> list[int]:
    sizes: list[int] = group_sizes_E.tolist()
    if sum(sizes) != rows:
        raise ValueError(f"grouped_linear: group sizes add up to {sum(sizes)}, but there are {rows} rows")
    return sizes


def _multiply_groups(a: Tensor, b: Tensor, c: Tensor, sizes: list[int]) -> None:
    """``c[g] = a[g] @ b[g]``, summed as `pyjpllm.ops.use_math` says."""
    math, chunk = math_of(a.dtype)
    _native.grouped_gemm(array(a), array(b), array(c), sizes, torch.get_num_threads(), math=math, math_chunk=chunk)


def _call_grouped_linear(x_NI: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    """Each group's rows times the transpose of its weight: [N, I] -> [N, O]."""
    y_NO = _fake_grouped_linear(x_NI, weights_EOI, group_sizes_E)
    sizes = _sizes(group_sizes_E, x_NI.shape[0])
    _multiply_groups(x_NI, weights_EOI.transpose(1, 2), y_NO, sizes)
    return y_NO


def _call_grouped_linear_grad_input(dy_NO: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    """Each group's rows times its weight: [N, O] -> [N, I]."""
    dx_NI = _fake_grouped_linear_grad_input(dy_NO, weights_EOI, group_sizes_E)
    sizes = _sizes(group_sizes_E, dy_NO.shape[0])
    _multiply_groups(dy_NO, weights_EOI, dx_NI, sizes)
    return dx_NI


def _call_grouped_linear_grad_weight(dy_NO: Tensor, x_NI: Tensor, group_sizes_E: Tensor) -> Tensor:
    """dy.T @ x over each group's rows: [E, O, I]."""
    dweights_EOI = _fake_grouped_linear_grad_weight(dy_NO, x_NI, group_sizes_E)
    sizes = _sizes(group_sizes_E, x_NI.shape[0])
    _multiply_groups(dy_NO.t(), x_NI, dweights_EOI, sizes)
    return dweights_EOI


def _fake_route(logits: Tensor, bias: Tensor | None, k: int, sigmoid: bool, normalize: bool) -> tuple[Tensor, Tensor]:
    shape = (logits.shape[0], k)
    return logits.new_empty(shape, dtype=torch.int64), logits.new_empty(shape, dtype=torch.float32)


def _fake_route_backward(
    dweights: Tensor, logits: Tensor, experts: Tensor, weights: Tensor, sigmoid: bool, normalize: bool
) -> Tensor:
    return logits.new_empty(logits.shape)


def _fake_sort_by_expert(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = experts.shape[0] * experts.shape[1]
    return experts.new_empty(rows), experts.new_empty(experts.shape), experts.new_empty(num_experts)


def _fake_dispatch(x: Tensor, token: Tensor, position: Tensor) -> Tensor:
    return x.new_empty((token.shape[0], x.shape[1]))


def _fake_dispatch_backward(dy: Tensor, position: Tensor) -> Tensor:
    return dy.new_empty((position.shape[0], dy.shape[1]))


def _fake_combine(x: Tensor, position: Tensor, weights: Tensor) -> Tensor:
    return x.new_empty((position.shape[0], x.shape[1]))


def _fake_combine_backward(dy: Tensor, x: Tensor, position: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weights.new_empty(weights.shape)


def _fake_grouped_linear(x: Tensor, weights: Tensor, group_sizes: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weights.shape[1]))


def _fake_grouped_linear_grad_input(dy: Tensor, weights: Tensor, group_sizes: Tensor) -> Tensor:
    return dy.new_empty((dy.shape[0], weights.shape[2]))


def _fake_grouped_linear_grad_weight(dy: Tensor, x: Tensor, group_sizes: Tensor) -> Tensor:
    return x.new_empty((group_sizes.shape[0], dy.shape[1], x.shape[1]))


def _keep_route(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, _, _, ctx.sigmoid, ctx.normalize = inputs
    ctx.mark_non_differentiable(output[0])
    ctx.save_for_backward(logits, *output)


def _route_backward(ctx: Any, _dexperts: Tensor | None, dweights: Tensor) -> tuple[Tensor, None, None, None, None]:
    return OPS.route_backward(dweights, *ctx.saved_tensors, ctx.sigmoid, ctx.normalize), None, None, None, None


def _keep_dispatch(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2])


def _dispatch_backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
    return OPS.dispatch_backward(dy, *ctx.saved_tensors), None, None


def _keep_combine(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _combine_backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, Tensor]:
    dx, dweights = OPS.combine_backward(dy, *ctx.saved_tensors)
    return dx, None, dweights


def _keep_grouped_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weights, group_sizes = inputs
    need_x, need_weights = ctx.needs_input_grad[:2]
    ctx.save_for_backward(x if need_weights else None, weights if need_x else None, group_sizes)


def _grouped_linear_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weights, group_sizes = ctx.saved_tensors
    need_x, need_weights = ctx.needs_input_grad[:2]
    dx = OPS.grouped_linear_grad_input(dy, weights, group_sizes) if need_x else None
    dweights = OPS.grouped_linear_grad_weight(dy, x, group_sizes) if need_weights else None
    return dx, dweights, None


define(
    "route(Tensor logits, Tensor? bias, SymInt k, bool sigmoid, bool normalize) -> (Tensor, Tensor)",
    _call_route,
    _fake_route,
)
define_gradient(
    "route_backward(Tensor dweights, Tensor logits, Tensor experts, Tensor weights, bool sigmoid, bool normalize) "
    "-> Tensor",
    _call_route_backward,
    _fake_route_backward,
)
gradient("route", _route_backward, _keep_route)
define(
    "sort_by_expert(Tensor experts, SymInt num_experts) -> (Tensor, Tensor, Tensor)",
    _call_sort_by_expert,
    _fake_sort_by_expert,
)
define("dispatch(Tensor x, Tensor token, Tensor position) -> Tensor", _call_dispatch, _fake_dispatch)
define_gradient(
    "dispatch_backward(Tensor dy, Tensor position) -> Tensor", _call_dispatch_backward, _fake_dispatch_backward
)
gradient("dispatch", _dispatch_backward, _keep_dispatch)
define("combine(Tensor x, Tensor position, Tensor weights) -> Tensor", _call_combine, _fake_combine)
define_gradient(
    "combine_backward(Tensor dy, Tensor x, Tensor position, Tensor weights) -> (Tensor, Tensor)",
    _call_combine_backward,
    _fake_combine_backward,
)
gradient("combine", _combine_backward, _keep_combine)
define(
    "grouped_linear(Tensor x, Tensor weights, Tensor group_sizes) -> Tensor",
    _call_grouped_linear,
    _fake_grouped_linear,
)
define_gradient(
    "grouped_linear_grad_input(Tensor dy, Tensor weights, Tensor group_sizes) -> Tensor",
    _call_grouped_linear_grad_input,
    _fake_grouped_linear_grad_input,
)
define_gradient(
    "grouped_linear_grad_weight(Tensor dy, Tensor x, Tensor group_sizes) -> Tensor",
    _call_grouped_linear_grad_weight,
    _fake_grouped_linear_grad_weight,
)
gradient("grouped_linear", _grouped_linear_backward, _keep_grouped_linear)


def route(
    logits_NE: Tensor, k: int, *, scoring: Scoring, normalize: bool, bias_E: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `pyjpllm.ops.api.route`."""
    check_storage("route", logits=logits_NE)
    bias_E = None if bias_E is None else bias_E.detach().float()
    experts_Nk, weights_Nk = OPS.route(logits_NE, bias_E, k, scoring == "sigmoid", normalize)
    return experts_Nk, weights_Nk


def sort_by_expert(experts_Nk: Tensor, num_experts: int) -> ExpertOrder:
    """See `pyjpllm.ops.api.sort_by_expert`."""
    return ExpertOrder(*OPS.sort_by_expert(experts_Nk, num_experts))


def dispatch(x_ND: Tensor, order: ExpertOrder) -> Tensor:
    """See `pyjpllm.ops.api.dispatch`."""
    check_storage("dispatch", x=x_ND)
    return cast(Tensor, OPS.dispatch(x_ND, order.token_M, order.position_Nk))


def combine(x_MD: Tensor, order: ExpertOrder, weights_Nk: Tensor) -> Tensor:
    """See `pyjpllm.ops.api.combine`."""
    check_storage("combine", x=x_MD)
    return cast(Tensor, OPS.combine(x_MD, order.position_Nk, weights_Nk.float()))


def grouped_linear(x_NI: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    """See `pyjpllm.ops.api.grouped_linear`."""
    check_storage("grouped_linear", x=x_NI, weights=weights_EOI)
    fits = x_NI.ndim == 2 and weights_EOI.ndim == 3 and x_NI.shape[1] == weights_EOI.shape[2]
    fits = fits and group_sizes_E.shape == weights_EOI.shape[:1]
    needed = "x [N, I], weights [E, O, I] and group sizes [E]"
    shapes("grouped_linear", needed, fits, x_NI, weights_EOI, group_sizes_E)
    return cast(Tensor, OPS.grouped_linear(x_NI, weights_EOI, group_sizes_E))


@torch.no_grad()
def grouped_linear_grad_input(dy_NO: Tensor, weights_EOI: Tensor, group_sizes_E: Tensor) -> Tensor:
    """See `pyjpllm.ops.api.grouped_linear_grad_input`."""
    check_storage("grouped_linear_grad_input", dy=dy_NO, weights=weights_EOI)
    fits = dy_NO.ndim == 2 and weights_EOI.ndim == 3 and dy_NO.shape[1] == weights_EOI.shape[1]
    fits = fits and group_sizes_E.shape == weights_EOI.shape[:1]
    needed = "dy [N, O], weights [E, O, I] and group sizes [E]"
    shapes("grouped_linear_grad_input", needed, fits, dy_NO, weights_EOI, group_sizes_E)
    return cast(Tensor, OPS.grouped_linear_grad_input(dy_NO, weights_EOI, group_sizes_E))


@torch.no_grad()
def grouped_linear_grad_weight(dy_NO: Tensor, x_NI: Tensor, group_sizes_E: Tensor) -> Tensor:
    """See `pyjpllm.ops.api.grouped_linear_grad_weight`."""
    check_storage("grouped_linear_grad_weight", dy=dy_NO, x=x_NI)
    fits = dy_NO.ndim == x_NI.ndim == 2 and dy_NO.shape[0] == x_NI.shape[0] and group_sizes_E.ndim == 1
    shapes("grouped_linear_grad_weight", "dy [N, O], x [N, I] and group sizes [E]", fits, dy_NO, x_NI, group_sizes_E)
    return cast(Tensor, OPS.grouped_linear_grad_weight(dy_NO, x_NI, group_sizes_E))
