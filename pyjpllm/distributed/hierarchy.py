"""Two levels of ranks: those of a node, and those that have the same place in every node.

Where a group has the same number k >= 2 of neighbouring ranks on each of its N >= 2 nodes, its large collectives first
divide the work among a node's ranks, so that each sends 1 / k across (Jia et al., 2018, arXiv:1807.11205). Everything
is made of messages between two ranks of the group, and every rank posts in an order that depends on sizes alone, which
is what matches messages. A group without such nodes is one node of all its ranks: the same walk, one level of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from pyjpllm.distributed.engine import Operation, Steps
from pyjpllm.distributed.transport import Communicator, as_one, small
from pyjpllm.errors import UserError

T = TypeVar("T")

# Up to this many bytes in all, everybody gets everything in one collective of MPI's.
GATHERED_UP_TO = 32 << 10
# Bytes of a large collective's pieces, one of which is worked on while the next travels: with many ranks more, so that
# each still gets a message of some length, but not without end, for it is memory.
SEGMENT = 8 << 20
MESSAGE = 64 << 10
LONGEST_SEGMENT = 64 << 20

PRETENDED = "PYJPLLM_RANKS_PER_NODE"


def node_of(members: Sequence[int], place: int) -> int:
    """The name of this rank's node: the world rank of its first one. ``members``: the node's world ranks, of which this
    one is at ``place``. With ``PYJPLLM_RANKS_PER_NODE`` so many of them at a time count as a node.

    Raises UserError when the variable is no number of ranks.
    """
    text = os.environ.get(PRETENDED)
    if text is None:
        return members[0]
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(f"{PRETENDED} = {text!r}: a number of ranks, at least 1")
    return members[place - place % int(text)]


def ranks_per_node(nodes: Sequence[int]) -> int:
    """How many neighbours each node has in a group whose ranks are on ``nodes``, in their order.

    All of them where that makes no two levels: one node, one rank on each, unequal numbers, or a node's ranks apart.
    """
    size = len(nodes)
    width = next((rank for rank, node in enumerate(nodes) if node != nodes[0]), size)
    firsts = nodes[::width]
    regular = (
        size % width == 0
        and len(set(firsts)) == len(firsts)
        and all(node == firsts[rank // width] for rank, node in enumerate(nodes))
    )
    return width if regular and width > 1 else size


@dataclass(frozen=True)
class Levels:
    """``size`` ranks, of which each ``width`` neighbours are a node, seen from ``rank``."""

    size: int
    rank: int
    width: int

    @property
    def nodes(self) -> int:
        """How many there are."""
        return self.size // self.width

    @property
    def node(self) -> int:
        """Which one this rank is on."""
        return self.rank // self.width

    @property
    def place(self) -> int:
        """Which one of its node's ranks this is."""
        return self.rank % self.width

    @property
    def posts(self) -> int:
        """How often a reduce-scatter, or an all-gather, posts messages."""
        return 1 if self.nodes == 1 else 2

    def inside(self) -> list[int]:
        """The other ranks of the node, beginning after this one, so that not everybody sends to one first."""
        return [self.node * self.width + (self.place + step) % self.width for step in range(1, self.width)]

    def across(self) -> list[int]:
        """The ranks at this place in the other nodes, beginning after this one."""
        return [(self.node + step) % self.nodes * self.width + self.place for step in range(1, self.nodes)]

    def at(self, place: int, of_ranks: Sequence[T]) -> Sequence[T]:
        """What ``of_ranks`` has for the ranks at ``place`` in every node, by node."""
        return of_ranks[place :: self.width]


def pipelined(op: Operation, segments: Iterable[Steps], posts: int) -> Steps:
    """Walk through all ``segments`` at once: a new one posts its first messages, then those under way wait for theirs
    and post the next, the latest first, as they were posted. ``posts``: how many lists of requests they yield in all.
    """
    to_come = iter(segments)
    under_way: list[tuple[Steps, list[Any]]] = []
    while True:
        fresh = next(to_come, None)
        if fresh is None and not under_way:
            return
        older, under_way = under_way, []
        if fresh is not None:
            under_way.append((fresh, next(fresh)))
            posts -= 1
        for steps, requests in older:
            op.tail = posts == 0
            yield requests
            following = next(steps, None)
            if following is not None:
                under_way.append((steps, following))
                posts -= 1


def segment_bytes(ranks: int) -> int:
    """Bytes of a segment in a group of ``ranks``."""
    return max(SEGMENT, min(ranks * MESSAGE, LONGEST_SEGMENT))


def segments_of(c: Communicator, pieces: Sequence[torch.Tensor]) -> list[slice]:
    """The ranges of flat ``pieces``, one a rank, that make up the segments; at least one, which may be empty."""
    length = max(1, segment_bytes(c.size) // (pieces[0].element_size() * c.size))
    longest = max(1, *(piece.numel() for piece in pieces))
    return [slice(start, start + length) for start in range(0, longest, length)]


def all_gather(c: Communicator, op: Operation, outs: Sequence[torch.Tensor], x: torch.Tensor) -> Steps:
    """``x`` of rank p into ``outs[p]``; sizes may differ by rank. ``outs[r]`` may be ``x`` itself."""
    if outs[c.rank].data_ptr() != x.data_ptr():
        outs[c.rank].view(-1).copy_(x.view(-1))
    levels = Levels(c.size, c.rank, c.per_node)
    if levels.nodes > 1 and sum(out.numel() for out in outs) * x.element_size() > GATHERED_UP_TO:
        flats = [out.view(-1) for out in outs]
        ranges = segments_of(c, flats)
        steps = (gather_segment(c, levels, [flat[part] for flat in flats]) for part in ranges)
        yield from pipelined(op, steps, levels.posts * len(ranges))
        return
    op.tail = True
    flat = as_one(outs)
    if flat is not None and small(flat):
        if len({out.numel() for out in outs}) == 1:
            yield [c.comm.Iallgather(c.mpi.IN_PLACE, c.raw_one(flat, c.size))]
        else:
            yield [c.comm.Iallgatherv(c.mpi.IN_PLACE, c.raw_counts(flat, [out.numel() for out in outs]))]
        return
    requests: list[Any] = []
    for peer in c.peers():
        requests += c.irecv(outs[peer], peer)
    for peer in c.peers():
        requests += c.isend(outs[c.rank], peer)
    yield requests


def gather_segment(c: Communicator, levels: Levels, outs: Sequence[torch.Tensor]) -> Steps:
    """Rank p's ``outs[p]`` into everyone's: from each node to those at the same place, then to the node's others."""
    requests: list[Any] = []
    if levels.nodes > 1:
        for peer in reversed(levels.across()):
            requests += c.irecv(outs[peer], peer)
        for peer in levels.across():
            requests += c.isend(outs[c.rank], peer)
        yield requests
        requests = []
    for peer in reversed(levels.inside()):
        requests += c.irecv_as_one(levels.at(peer % levels.width, outs), peer)
    for peer in levels.inside():
        requests += c.isend_as_one(levels.at(levels.place, outs), peer)
    yield requests
