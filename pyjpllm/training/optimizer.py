"""AdamW over the parts that a rank steps: the state beside each, and one fused pass a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyjpllm import ops
from pyjpllm.config.schema import OptimizerConfig
from pyjpllm.parallel.flat import Group, Parameters, Part
from pyjpllm.parallel.layout import Layout

KINDS = ("master", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """This rank's part of one named parameter and of its optimizer state, as views into its buffers."""

    name: str
    layout: Layout
    tensors: dict[str, Tensor]
    """By kind (``KINDS``), each of the local shape."""
    owned: bool
    """Whether no replica of this rank has it (ZeRO)."""


class AdamW:
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), none on norms and biases.

    ``updates`` counts the steps really taken (a skipped step does not move the bias correction).
    """

    def __init__(self, flat: Parameters, config: OptimizerConfig) -> None:
        self.flat = flat
        self.config = config
        self.updates = 0
        self.exp_avg = [torch.zeros_like(part.master) for group in flat.groups for part in group.parts]
        self.exp_avg_sq = [torch.zeros_like(exp_avg) for exp_avg in self.exp_avg]

    def step(self, lr: float, grad_scale: float) -> None:
        """One update of every parameter at rate ``lr``; gradients count ``grad_scale`` times (clipping).

        With ZeRO the other ranks' values are under way afterwards (`Parameters.values`).
        """
        self.updates += 1
        for group, part, exp_avg, exp_avg_sq in self._parts():
            ops.adamw_step(
                part.master,
                part.grad,
                exp_avg,
                exp_avg_sq,
                lr=lr,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                eps=self.config.eps,
                weight_decay=self.config.weight_decay if group.weight_decay else 0.0,
                step=self.updates,
                grad_scale=grad_scale,
                model_param=None if part.model is part.master else part.model,
            )
        self.flat.values.start()

    def _parts(self) -> Iterator[tuple[Group, Part, Tensor, Tensor]]:
        parts = [(group, part) for group in self.flat.groups for part in group.parts]
        for (group, part), exp_avg, exp_avg_sq in zip(parts, self.exp_avg, self.exp_avg_sq, strict=True):
            yield group, part, exp_avg, exp_avg_sq

    def pieces(self) -> Iterator[Piece]:
        """Every parameter's local part with its state, in the order of the parts, as rectangles.

        One without elements has none.
        """
        for _, part, exp_avg, exp_avg_sq in self._parts():
            buffers = dict(zip(KINDS, (part.master, exp_avg, exp_avg_sq), strict=True))
            for entry, start, stop in part.overlaps():
                first = start
                for rectangle in rectangles(tuple(entry.param.shape), start - entry.start, stop - entry.start):
                    shape = tuple(b - a for a, b in rectangle)
                    last = first + math.prod(shape)
                    views = {k: b[first - part.start : last - part.start].view(shape) for k, b in buffers.items()}
                    whole = entry.layout.slices
                    slices = tuple(
                        (origin + a, origin + b) for (origin, _), (a, b) in zip(whole, rectangle, strict=True)
                    )
                    yield Piece(entry.name, replace(entry.layout, slices=slices), views, owned=self.flat.zero > 0)
                    first = last


def rectangles(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Elements ``start`` to ``stop`` of a tensor in memory order, as rectangles in that order: ranges by dimension.

    They are part of a row, whole rows, part of a row; of a row of more dimensions likewise.
    """
    if start >= stop:
        return
    if len(shape) <= 1:
        yield ((start, stop),) if shape else ()
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row
    if start // row == (stop - 1) // row and stop - start < row:
        index = start // row
        yield from (
            ((index, index + 1), *rest) for rest in rectangles(shape[1:], start - index * row, stop - index * row)
        )
        return
    yield from (((first - 1, first), *rest) for rest in rectangles(shape[1:], start - (first - 1) * row, row))
    if first < last:
        yield (first, last), *((0, size) for size in shape[1:])
    yield from (((last, last + 1), *rest) for rest in rectangles(shape[1:], 0, stop - last * row))


def clip_scale(norm: float, limit: float) -> float:
    """The factor that brings gradients of global norm ``norm`` down to ``limit`` (0: no clipping)."""
    return limit / norm if limit > 0 and norm > limit else 1.0
