"""AdamW over flat buffers: the state beside every group of parameters, and one fused pass a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyjpllm import ops
from pyjpllm.config.schema import OptimizerConfig
from pyjpllm.parallel.flat import FlatParameters
from pyjpllm.parallel.layout import Layout

KINDS = ("master", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """This rank's part of one named parameter and of its optimizer state, as views into the flat buffers."""

    name: str
    layout: Layout
    tensors: dict[str, Tensor]
    """By kind (``KINDS``), each of the local shape."""


class AdamW:
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), none on norms and biases.

    ``updates`` counts the steps really taken (a skipped step does not move the bias correction).
    """

    def __init__(self, flat: FlatParameters, config: OptimizerConfig) -> None:
        self.flat = flat
        self.config = config
        self.updates = 0
        self.exp_avg = [torch.zeros_like(group.master) for group in flat.groups]
        self.exp_avg_sq = [torch.zeros_like(group.master) for group in flat.groups]

    def step(self, lr: float, grad_scale: float) -> None:
        """One update of every parameter at rate ``lr``; gradients count ``grad_scale`` times (clipping)."""
        self.updates += 1
        for group, exp_avg, exp_avg_sq in zip(self.flat.groups, self.exp_avg, self.exp_avg_sq, strict=True):
            ops.adamw_step(
                group.master,
                group.grad,
                exp_avg,
                exp_avg_sq,
                lr=lr,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                eps=self.config.eps,
                weight_decay=self.config.weight_decay if group.weight_decay else 0.0,
                step=self.updates,
                grad_scale=grad_scale,
                model_param=None if group.master is group.model else group.model,
            )

    def pieces(self) -> Iterator[Piece]:
        """Every parameter's local part with its state, in the order of the flat buffers."""
        for group, exp_avg, exp_avg_sq in zip(self.flat.groups, self.exp_avg, self.exp_avg_sq, strict=True):
            buffers = dict(zip(KINDS, (group.master, exp_avg, exp_avg_sq), strict=True))
            for name, param, start, stop, layout in group.entries:
                views = {kind: buffer[start:stop].view(param.shape) for kind, buffer in buffers.items()}
                yield Piece(name, layout, views)


def clip_scale(norm: float, limit: float) -> float:
    """The factor that brings gradients of global norm ``norm`` down to ``limit`` (0: no clipping)."""
    return limit / norm if limit > 0 and norm > limit else 1.0
