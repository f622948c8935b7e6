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
    """A linear layer out of autograd's sight: an edge to a parameter would fire its hooks, though no gradient comes
    along it."""

    weight_OI: Tensor
    bias_O: Tensor | None

    def forward(self, x_NI: Tensor) -> Tensor:
        """The layer's output."""
        return ops.linear(x_NI, self.weight_OI, self.bias_O)

    def input_gradient(self, dy_NO: Tensor) -> Tensor:
        """The half that others wait for."""
        return ops.linear_grad_input(dy_NO, self.weight_OI)

    @property
    def trained(self) -> bool:
        """Whether there is another half."""
        return self.weight_OI.requires_grad

    def give_gradients(self, x_NI: Tensor, dy_NO: Tensor) -> None:
        """The other half, to the parameters."""
        torch.autograd.backward([self.weight_OI], [ops.linear_grad_weight(dy_NO, x_NI)])
        if self.bias_O is not None:
            dbias_O = dy_NO.flatten(0, -2).sum(0, dtype=torch.promote_types(dy_NO.dtype, torch.float32))
            torch.autograd.backward([self.bias_O], [dbias_O.to(self.bias_O.dtype)])


class _Experts(NamedTuple):
    """As `_Layer`, for the linear layers of experts."""

    weights_EOI: Tensor
    sizes_E: Tensor

    def forward(self, x_MI: Tensor) -> Tensor:
        """The layer's output."""
        return ops.grouped_linear(x_MI, self.weights_EOI, self.sizes_E)

    def input_gradient(self, dy_MO: Tensor) -> Tensor:
        """The half that others wait for."""
        return ops.grouped_linear_grad_input(dy_MO, self.weights_EOI, self.sizes_E)

    @property
    def trained(self) -> bool:
        """Whether there is another half."""
        return self.weights_EOI.requires_grad

    def give_gradients(self, x_MI: Tensor, dy_MO: Tensor) -> None:
        """The other half, to the weights."""
        torch.autograd.backward([self.weights_EOI], [ops.grouped_linear_grad_weight(dy_MO, x_MI, self.sizes_E)])


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Layer | _Experts, queue: WeightGradients) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.queue = layer, queue
        return layer.forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        layer: _Layer | _Experts = ctx.layer
        (x,) = ctx.saved_tensors
        if layer.trained:
            ctx.queue.add(partial(layer.give_gradients, x, dy))
        return layer.input_gradient(dy), None, None


def _apply(x: Tensor, layer: _Layer | _Experts) -> Tensor:
    queue = WeightGradients.current()
    if queue is None or not (torch.is_grad_enabled() and x.requires_grad):
        return layer.forward(x)
    y: Tensor = _Split.apply(x, layer, queue)  # type: ignore[no-untyped-call]
    return y


def linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`ops.linear`, whose weights' gradients are put off where a queue asks for it."""
    return _apply(x_NI, _Layer(weight_OI, bias_O))


def grouped_linear(x_MI: Tensor, weights_EOI: Tensor, sizes_E: Tensor) -> Tensor:
    """`ops.grouped_linear`, whose weights' gradient is put off where a queue asks for it."""
    return _apply(x_MI, _Experts(weights_EOI, sizes_E))
