"""Backward in two halves: the gradients of a linear layer's input at once, those of its weights later.

The first is what other ranks of a pipeline wait for, the second fills their bubbles (Qi et al., 2023,
arXiv:2401.10241). N tokens, I inputs, O outputs, E experts, M rows sorted by expert.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyjpllm import ops


class WeightGradients:
    """The weight gradients that one backward has put off.

    Forward (and, for activation checkpointing, backward) runs inside :meth:`put_off`; :meth:`make` then gives each
    parameter its gradient as backward would have, hooks included.
    """

    _current: WeightGradients | None = None  # for the whole process: backward may run in autograd's own threads

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """Inside, `linear` and `grouped_linear` leave their weights' gradients to this queue."""
        before, WeightGradients._current = WeightGradients._current, self
        try:
            yield
        finally:
            WeightGradients._current = before

    @classmethod
    def current(cls) -> WeightGradients | None:
        """The queue that what is computed now should leave its weights' gradients to."""
        return cls._current

    def add(self, work: Callable[[], None]) -> None:
        """Leave ``work`` to be done by :meth:`make`."""
        self._waiting.append(work)

    def make(self) -> None:
        """Make all that waits, in the order in which backward came by, and let go of what it was made of."""
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work()


class _Layer(NamedTuple):
    """Out of autograd's sight: an edge to a parameter would fire its hooks, though no gradient comes along it."""

    weight_OI: Tensor
    bias_O: Tensor | None
    queue: WeightGradients


def _make(layer: _Layer, x_NI: Tensor, dy_NO: Tensor) -> None:
    dweight_OI = ops.linear_grad_weight(dy_NO, x_NI)
    torch.autograd.backward([layer.weight_OI], [dweight_OI])
    if layer.bias_O is not None:
        dbias_O = dy_NO.flatten(0, -2).sum(0, dtype=torch.promote_types(dy_NO.dtype, torch.float32))
        torch.autograd.backward([layer.bias_O], [dbias_O.to(layer.bias_O.dtype)])


class _SplitLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, layer: _Layer) -> Tensor:
        ctx.save_for_backward(x_NI)
        ctx.layer = layer
        return ops.linear(x_NI, layer.weight_OI, layer.bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor, None]:
        layer: _Layer = ctx.layer
        (x_NI,) = ctx.saved_tensors
        if layer.weight_OI.requires_grad:
            layer.queue.add(partial(_make, layer, x_NI, dy_NO))
        return ops.linear_grad_input(dy_NO, layer.weight_OI), None


def linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`ops.linear`, whose weights' gradients are put off where a queue asks for it."""
    queue = WeightGradients.current()
    if queue is None or not (torch.is_grad_enabled() and x_NI.requires_grad):
        return ops.linear(x_NI, weight_OI, bias_O)
    y_NO: Tensor = _SplitLinear.apply(x_NI, _Layer(weight_OI, bias_O, queue))  # type: ignore[no-untyped-call]
    return y_NO


class _Experts(NamedTuple):
    """As `_Layer`."""

    weights_EOI: Tensor
    sizes_E: Tensor
    queue: WeightGradients


def _make_grouped(layer: _Experts, x_MI: Tensor, dy_MO: Tensor) -> None:
    dweights_EOI = ops.grouped_linear_grad_weight(dy_MO, x_MI, layer.sizes_E)
    torch.autograd.backward([layer.weights_EOI], [dweights_EOI])


class _SplitGroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MI: Tensor, layer: _Experts) -> Tensor:
        ctx.save_for_backward(x_MI)
        ctx.layer = layer
        return ops.grouped_linear(x_MI, layer.weights_EOI, layer.sizes_E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_MO: Tensor) -> tuple[Tensor, None]:
        layer: _Experts = ctx.layer
        (x_MI,) = ctx.saved_tensors
        if layer.weights_EOI.requires_grad:
            layer.queue.add(partial(_make_grouped, layer, x_MI, dy_MO))
        return ops.grouped_linear_grad_input(dy_MO, layer.weights_EOI, layer.sizes_E), None


def grouped_linear(x_MI: Tensor, weights_EOI: Tensor, sizes_E: Tensor) -> Tensor:
    """`ops.grouped_linear`, whose weights' gradients are put off where a queue asks for it."""
    queue = WeightGradients.current()
    if queue is None or not (torch.is_grad_enabled() and x_MI.requires_grad):
        return ops.grouped_linear(x_MI, weights_EOI, sizes_E)
    y_MO: Tensor = _SplitGroupedLinear.apply(x_MI, _Experts(weights_EOI, sizes_E, queue))  # type: ignore[no-untyped-call]
    return y_MO
