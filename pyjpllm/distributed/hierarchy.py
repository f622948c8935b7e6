"""Sums in two levels: inside nodes, where messages are cheap, and across them, where each rank sends a node's share.

A ring over all ranks sends 2 M bytes a rank over the links between nodes' neighbours; here a node's ranks first divide
the sum among them, so that each sends 2 M / ranks_per_node across (Jia et al., 2018, arXiv:1807.11205).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from pyjpllm.distributed import collectives
from pyjpllm.errors import UserError, nearest_divisor


@dataclass(frozen=True)
class Hierarchy:
    """The ranks of a group as nodes: ``inside`` this rank's node, ``across`` those at its place in all nodes."""

    inside: dist.ProcessGroup | None
    across: dist.ProcessGroup | None

    @classmethod
    def of(cls, group: dist.ProcessGroup, ranks_per_node: int) -> Hierarchy:
        """Neighbouring ranks of ``group`` are a node. Collective over all ranks of ``group``.

        Raises UserError where the group does not divide into nodes.
        """
        size, rank = group.size(), group.rank()
        if size % ranks_per_node:
            raise UserError(
                f"a group of {size} ranks is not made of nodes of {ranks_per_node}; "
                f"the nearest number that fits is {nearest_divisor(ranks_per_node, size)}"
            )
        members = dist.get_process_group_ranks(group)
        node, place = divmod(rank, ranks_per_node)
        inside = members[node * ranks_per_node : (node + 1) * ranks_per_node]
        return cls(_new(inside, "node"), _new(members[place::ranks_per_node], "across_nodes"))

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """The sum over all ranks, in place: a reduce-scatter inside, an all-reduce across, an all-gather inside.

        With ``init(deterministic=True)`` the order is fixed: the ranks of a node in their order, then the nodes in
        theirs. 16-bit sums are rounded twice, inside and across.
        """
        if self.inside is None:
            collectives.all_reduce(tensor, self.across)
            return
        flat = tensor.reshape(-1)
        base, more = divmod(flat.numel(), self.inside.size())
        sizes = [base + (place < more) for place in range(self.inside.size())]
        mine = collectives.reduce_scatter(flat, self.inside, sizes=sizes)
        if mine.numel():
            collectives.all_reduce(mine, self.across)
        tensor.copy_(collectives.all_gather(mine, self.inside, sizes=sizes).view_as(tensor))


def _new(members: list[int], name: str) -> dist.ProcessGroup | None:
    """A group of these ranks, which every rank makes, alone too: torch names groups by how many a rank has made."""
    made = dist.new_group(members, use_local_synchronization=True, group_desc=name)
    assert isinstance(made, dist.ProcessGroup)
    return made if len(members) > 1 else None
