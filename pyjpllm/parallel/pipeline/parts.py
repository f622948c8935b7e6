"""Which layers lie in which chunk of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple


class Part(NamedTuple):
    """One chunk of a model: its layers, and whether the embedding comes before and norm and head after them."""

    start: int
    stop: int
    first: bool
    last: bool

    @classmethod
    def whole(cls, num_layers: int) -> Part:
        """All of a model."""
        return cls(0, num_layers, True, True)


def parts_of(layers: Sequence[int]) -> tuple[Part, ...]:
    """The chunks that have these numbers of layers, by depth; a chunk may have none."""
    ends = [0, *accumulate(layers)]
    last = len(layers) - 1
    return tuple(Part(start, stop, i == 0, i == last) for i, (start, stop) in enumerate(pairwise(ends)))


def balanced(num_layers: int, chunks: int, *, embedding: float = 0.0, head: float = 0.0) -> tuple[int, ...]:
    """How many layers each chunk has so that the dearest is as cheap as can be, then as few of them as can be.

    Args:
        num_layers: of the model, all of one cost, which is the unit of the other two.
        chunks: pieces of the model.
        embedding, head: what the first and the last chunk have beside their layers.
    """

    def fits(limit: float) -> list[int] | None:
        """The most layers that each chunk takes within the limit, if that is enough."""
        room = [max(0, int(limit - extra + 1e-9)) for extra in extras]
        return room if sum(room) >= num_layers and limit + 1e-9 >= max(extras) else None

    extras = [0.0] * chunks
    extras[0] += embedding
    extras[-1] += head
    limits = sorted({count + extra for extra in extras for count in range(num_layers + 1)})
    room = next(found for limit in limits if (found := fits(limit)) is not None)
    layers = list(room)
    while sum(layers) > num_layers:  # take from whoever then costs most
        index = max((i for i in range(chunks) if layers[i]), key=lambda i: (layers[i] + extras[i], i))
        layers[index] -= 1
    return tuple(layers)
