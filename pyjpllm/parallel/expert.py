"""Linear layers of experts, and the way of tokens to the ranks that hold them and back (expert parallelism).

Each of R ranks holds E / R of the experts, whose rows come from the tokens of all R ranks by all-to-all (Lepikhin et
al., 2020, arXiv:2006.16668), however many there are: no token is dropped. E experts, e those of this rank, M rows of
this rank's tokens and m rows for this rank's experts, both sorted by expert; D width, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist

from pyjpllm import ops
from pyjpllm.distributed import Mesh, collectives
from pyjpllm.parallel.deferred import grouped_linear
from pyjpllm.parallel.layout import Layout, set_layout, split_range
from pyjpllm.parallel.tensor import TensorParallel


@dataclass(frozen=True)
class ExpertParallel:
    """The ranks that share the experts, as a layer sees them; the default is a rank alone.

    Attributes:
        group: their process group; None when ``size`` is 1.
        rank, size: this rank's place, and how many there are.
        sequence_group: the ranks that hold the other tokens of this rank's sequences (context parallelism).
    """

    group: dist.ProcessGroup | None = None
    rank: int = 0
    size: int = 1
    sequence_group: dist.ProcessGroup | None = None

    @classmethod
    def from_mesh(cls, mesh: Mesh) -> ExpertParallel:
        """The ep axis of ``mesh``."""
        return cls(mesh.group("ep"), mesh.rank("ep"), mesh.size("ep"), mesh.group("cp"))

    def sum_over_sequence(self, x: Tensor) -> None:
        """Sum ``x``, which has no gradient, in place over the ranks that share this rank's sequences."""
        collectives.all_reduce(x, self.sequence_group)

    def of_first(self, x: Tensor) -> Tensor:
        """``x`` of the first of these ranks, on all: what they computed alike may differ in its last bits."""
        return collectives.broadcast(x.contiguous(), self.group)


class ExpertLinear(nn.Module):
    """y_mO = x_mI weight_e^T with the weight of each row's expert; the experts are split over ep.

    Args:
        split: what tp splits as well, ``"outputs"`` or ``"inputs"``; with inputs the result is this rank's part of a
            sum over tp.
    """

    def __init__(
        self,
        num_experts: int,
        in_features: int,
        out_features: int,
        *,
        split: Literal["outputs", "inputs"],
        ep: ExpertParallel,
        tp: TensorParallel,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        shape = (num_experts, out_features, in_features)
        divided = 1 if split == "outputs" else 2
        slices = [(0, size) for size in shape]
        slices[0] = split_range(num_experts, ep.size, ep.rank)
        slices[divided] = split_range(shape[divided], tp.size, tp.rank)
        layout = Layout(shape, tuple(slices), replicas="expert_replicas")
        self.weight = nn.Parameter(torch.empty(layout.local_shape, dtype=dtype, device=device))
        set_layout(self.weight, layout)

    def forward(self, x_mI: Tensor, sizes_e: Tensor) -> Tensor:
        """x_mI, of which each of this rank's experts has ``sizes_e`` rows -> y_mO."""
        return grouped_linear(x_mI, self.weight, sizes_e)


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ep: ExpertParallel, leave: list[int], arrive: list[int]) -> Tensor:
        ctx.ep, ctx.leave, ctx.arrive = ep, leave, arrive
        return collectives.all_to_all(rows, ep.group, output_sizes=arrive, input_sizes=leave)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return collectives.all_to_all(grad, ctx.ep.group, ctx.leave, ctx.arrive), None, None, None


class Exchange:
    """The way of one batch's rows to the ranks of their experts, and back.

    Args:
        sizes_E: how many rows of this rank's tokens each expert has; the rows are sorted by expert.
        ep: its ``size`` divides E. All its ranks make their exchange at the same point of the program.

    Attributes:
        sizes_e: how many rows of all ranks' tokens each expert of this rank has.
    """

    def __init__(self, sizes_E: Tensor, ep: ExpertParallel) -> None:
        self.ep, self.sizes_e = ep, sizes_E
        if ep.size == 1:
            return
        leaving_Re = sizes_E.view(ep.size, -1)
        arriving_Re = collectives.all_to_all(sizes_E, ep.group).view(ep.size, -1)
        self.leave: list[int] = leaving_Re.sum(1).tolist()
        self.arrive: list[int] = arriving_Re.sum(1).tolist()
        # They arrive rank by rank, each rank's sorted by expert; the experts want theirs together.
        experts_e = torch.arange(arriving_Re.shape[1], device=sizes_E.device)
        expert_m = experts_e.repeat(ep.size).repeat_interleave(arriving_Re.flatten())
        self.order = ops.sort_by_expert(expert_m[:, None], arriving_Re.shape[1])
        self.sizes_e = self.order.sizes_E

    def send(self, rows_MD: Tensor) -> Tensor:
        """The tokens' rows -> rows_mD for this rank's experts, sorted by expert."""
        if self.ep.size == 1:
            return rows_MD
        arrived_mD: Tensor = _AllToAll.apply(rows_MD, self.ep, self.leave, self.arrive)  # type: ignore[no-untyped-call]
        return ops.dispatch(arrived_mD, self.order)

    def back(self, rows_mD: Tensor) -> Tensor:
        """What the experts made of :meth:`send`'s rows -> in the place of the tokens' rows."""
        if self.ep.size == 1:
            return rows_mD
        token_m, position_m1, sizes_e = self.order
        as_arrived = ops.ExpertOrder(position_m1.view(-1), token_m.view(-1, 1), sizes_e)
        leaving_mD = ops.dispatch(rows_mD, as_arrived)
        rows_MD: Tensor = _AllToAll.apply(leaving_mD, self.ep, self.arrive, self.leave)  # type: ignore[no-untyped-call]
        return rows_MD
