"""A pipeline schedule as a table: what each rank computes, in which order.

The model is cut into chunks, counted by depth; a rank holds one or several. Of every chunk and micro-batch there is a
forward (F), the gradient of its input (B) and the gradient of its weights (W), or the last two at once (BW). B goes up
the pipeline and others wait for it; W may come at any time later, which is what fills bubbles (Qi et al., 2023,
arXiv:2401.10241). Messages follow from the table: see `messages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What is computed of a chunk."""

    F = "F"
    """The forward."""
    B = "B"
    """The gradient of the chunk's input."""
    W = "W"
    """The gradient of the chunk's weights."""
    BW = "BW"
    """Both gradients at once."""

    @property
    def gives_input_gradient(self) -> bool:
        """Whether the chunk before can go on after it."""
        return self in (Kind.B, Kind.BW)


class Action(NamedTuple):
    """One cell of the table."""

    kind: Kind
    chunk: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.kind.value} of micro-batch {self.micro_batch} in chunk {self.chunk}"


class Message(NamedTuple):
    """What one chunk sends to a neighbour on another rank: an activation down, or its gradient up."""

    source: int
    """The rank that sends, right after the action that makes it."""
    target: int
    """The rank that receives, before the action that needs it."""
    made_by: Action
    needed_by: Action


@dataclass(frozen=True)
class Schedule:
    """Who computes what, in which order.

    Attributes:
        name: for people.
        rank_of: the rank that holds each chunk, by depth.
        micro_batches: of one step; every chunk sees each once.
        rows: of each rank, its actions in order.
    """

    name: str
    rank_of: tuple[int, ...]
    micro_batches: int
    rows: tuple[tuple[Action, ...], ...]

    @property
    def ranks(self) -> int:
        """Ranks of the pipeline."""
        return len(self.rows)

    @property
    def chunks(self) -> int:
        """Pieces of the model."""
        return len(self.rank_of)

    def chunks_of(self, rank: int) -> tuple[int, ...]:
        """The pieces of the model that a rank holds, by depth."""
        return tuple(chunk for chunk, holder in enumerate(self.rank_of) if holder == rank)

    def needs(self, action: Action) -> tuple[Action, ...]:
        """The actions whose results an action takes, as they are named when B and W are apart."""
        kind, chunk, micro_batch = action
        if kind is Kind.W:
            return (Action(Kind.B, chunk, micro_batch),)
        if kind is Kind.F:
            return (Action(Kind.F, chunk - 1, micro_batch),) if chunk > 0 else ()
        own = Action(Kind.F, chunk, micro_batch)
        return (own, Action(Kind.B, chunk + 1, micro_batch)) if chunk + 1 < self.chunks else (own,)

    def messages(self) -> Iterator[Message]:
        """All messages of a step, row by row in the order in which they are sent."""
        for rank, row in enumerate(self.rows):
            for action in row:
                step = 1 if action.kind is Kind.F else -1
                other = action.chunk + step
                if action.kind is Kind.W or not 0 <= other < self.chunks or self.rank_of[other] == rank:
                    continue
                taker = Kind.F if step > 0 else self._kind_of_input(other, action.micro_batch)
                yield Message(rank, self.rank_of[other], action, Action(taker, other, action.micro_batch))

    def _kind_of_input(self, chunk: int, micro_batch: int) -> Kind:
        row = self.rows[self.rank_of[chunk]]
        return Kind.BW if Action(Kind.BW, chunk, micro_batch) in row else Kind.B


def forward_only(schedule: Schedule) -> Schedule:
    """The forwards of a schedule, in its order: what an evaluation runs."""
    rows = tuple(tuple(action for action in row if action.kind is Kind.F) for row in schedule.rows)
    return Schedule(f"{schedule.name}, forward", schedule.rank_of, schedule.micro_batches, rows)


def check(schedule: Schedule) -> None:
    """Raise ValueError with the first thing that makes the table no schedule: missing, double, misplaced, misordered.

    That ranks do not wait for each other for ever is seen by `simulate`.
    """
    if any(not 0 <= rank < schedule.ranks for rank in schedule.rank_of):
        raise ValueError(f"{schedule.name}: chunks lie on {schedule.rank_of}, there are {schedule.ranks} ranks")
    for rank, row in enumerate(schedule.rows):
        place = {action: index for index, action in enumerate(row)}
        if len(place) < len(row):
            twice = next(action for index, action in enumerate(row) if place[action] != index)
            raise ValueError(f"{schedule.name}: rank {rank} has {twice} twice")
        expected = len(schedule.chunks_of(rank)) * schedule.micro_batches
        for kinds in ((Kind.F,), (Kind.B, Kind.BW), (Kind.W, Kind.BW)):
            found = {action[1:] for action in row if action.kind in kinds}
            count = sum(action.kind in kinds for action in row)
            if count != expected or len(found) != expected:
                names = " or ".join(kind.value for kind in kinds)
                raise ValueError(f"{schedule.name}: rank {rank} has {count} times {names}, {expected} are needed")
        for action in row:
            if schedule.rank_of[action.chunk] != rank or not 0 <= action.micro_batch < schedule.micro_batches:
                raise ValueError(f"{schedule.name}: {action} is on rank {rank}, where it does not belong")
            for need in schedule.needs(action):
                if need in place and place[need] > place[action]:
                    raise ValueError(f"{schedule.name}: rank {rank} has {action} before {need}")
