"""Which rank goes where on a torus of nodes, so that pipeline neighbours are neighbours of the network.

Ranks are numbered as `pyjpllm.distributed.mesh` numbers them: pp outermost, tp innermost. So the ranks of a stage fill
nodes one after the other, a tensor-parallel group of at most a node's ranks (dividing them) lies within its node, and
what is left to choose is the node of each (stage, place within the stage).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pyjpllm.errors import UserError, nearest_divisor

Node = tuple[int, ...]


class Place(NamedTuple):
    """Where a rank runs."""

    node: Node
    slot: int
    """Which of the node's ranks it is: on A64FX with four of them, the group of cores with a memory of its own."""


@dataclass(frozen=True)
class Torus:
    """Nodes in a box; ``wraps`` says along which sides the last is beside the first. Fugaku gives jobs a virtual 3-D
    torus, such as 48 x 6 x 48."""

    shape: tuple[int, ...]
    wraps: tuple[bool, ...]

    @property
    def nodes(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    def hops(self, a: Node, b: Node) -> int:
        """Links between two nodes on the shortest way."""
        total = 0
        for x, y, size, wraps in zip(a, b, self.shape, self.wraps, strict=True):
            far = abs(x - y)
            total += min(far, size - far) if wraps else far
        return total


def rank_map(torus: Torus, *, pipeline: int, ranks_per_node: int) -> list[Place]:
    """The place of every rank of the job, by rank.

    Every two ranks that follow each other in a pipeline are one hop apart, in the same slot. Where a pipeline fits into
    a box with a round trip through it, and the torus is made of such boxes, its last rank is beside its first, too
    (schedules in which a rank has several chunks send that way).

    Raises UserError where the nodes do not divide into pipelines.
    """
    if torus.nodes % pipeline:
        shape = " x ".join(map(str, torus.shape))
        raise UserError(
            f"parallel.pipeline = {pipeline} does not divide the {torus.nodes} nodes of {shape}; "
            f"the nearest that does is {nearest_divisor(pipeline, torus.nodes)}"
        )
    pipelines = _pipelines(torus, pipeline)
    return [
        Place(pipelines[place][stage], slot)
        for stage in range(pipeline)
        for place in range(len(pipelines))
        for slot in range(ranks_per_node)
    ]


def _pipelines(torus: Torus, length: int) -> list[list[Node]]:
    """The nodes of each pipeline, in order: those that follow each other are neighbours."""
    found = _round_trip(torus, length)
    if found is None:
        way = snake(torus.shape)
        return [way[start : start + length] for start in range(0, len(way), length)]
    box, trip = found
    grid = snake([size // side for size, side in zip(torus.shape, box, strict=True)])
    corners = [[at * side for at, side in zip(place, box, strict=True)] for place in grid]
    return [
        [tuple(start + step for start, step in zip(corner, node, strict=True)) for node in trip] for corner in corners
    ]


def snake(shape: Sequence[int]) -> list[Node]:
    """All nodes of a box, each one beside the one before."""
    way: list[Node] = [()]
    for size in reversed(shape):
        # The whole of the later sides forwards, then backwards, and so on.
        way = [(at, *node) for at in range(size) for node in (way if at % 2 == 0 else way[::-1])]
    return way


def _round_trip(torus: Torus, length: int) -> tuple[Node, list[Node]] | None:
    """The most compact box of ``length`` nodes that the torus is made of, and a way round through all its nodes."""
    divisors = [[side for side in range(1, size + 1) if size % side == 0] for size in torus.shape]
    boxes = [box for box in itertools.product(*divisors) if math.prod(box) == length]
    for box in sorted(boxes, key=lambda box: (sum(box), box)):
        trip = _trip(box)
        if trip is None:  # a side as long as the torus may close the way where a box of its own cannot
            trip = snake(box)
        if torus.hops(trip[-1], trip[0]) <= 1:
            return box, trip
    return None


def _trip(box: Node) -> list[Node] | None:
    """A way round through all nodes of a box without wrapping; None where there is none, or none so simple.

    One side of even length and one more of at least 2: out along the first row of the second, back through the rest.
    """
    sides = [axis for axis, side in enumerate(box) if side > 1]
    even = [axis for axis in sides if box[axis] % 2 == 0]
    if len(sides) < 2 or not even:
        return None
    # A snake over all sides but the even one, as one long second side: consecutive columns are neighbours.
    along = even[-1]
    columns = snake([1 if axis == along else side for axis, side in enumerate(box)])
    rows = range(box[along])

    def at(column: Node, row: int) -> Node:
        return tuple(row if axis == along else place for axis, place in enumerate(column))

    back = [at(column, row) for row in reversed(rows) for column in (columns[1:] if row % 2 else columns[:0:-1])]
    return [*(at(columns[0], row) for row in rows), *back]
