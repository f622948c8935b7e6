"""When each action of a schedule starts and ends, from the time each takes: bubbles and memory, before anything runs.

A rank computes one action after the other, as its row says, each as soon as what it needs is there. Times have any one
unit, memory has any one unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pyjpllm.parallel.pipeline.table import Action, Kind, Schedule


@dataclass(frozen=True)
class Costs:
    """What a chunk costs, one entry a chunk. BW takes as long as B and W together.

    Attributes:
        forward, input, weight: time of F, B and W.
        message: time from the end of an action to the start of what needs its result on another rank.
        memory: what one micro-batch's forward keeps until its gradients are made.
        kept: the part of that which B leaves for W.
    """

    forward: tuple[float, ...]
    input: tuple[float, ...]
    weight: tuple[float, ...]
    message: float = 0.0
    memory: tuple[float, ...] = ()
    kept: float = 1.0

    def __post_init__(self) -> None:
        if not self.memory:
            object.__setattr__(self, "memory", (1.0,) * len(self.forward))

    @classmethod
    def even(cls, chunks: int, forward: float = 1, input: float = 1, weight: float = 1, message: float = 0) -> Costs:
        """The same for each chunk."""
        return cls((forward,) * chunks, (input,) * chunks, (weight,) * chunks, message)

    def of(self, action: Action) -> float:
        """The time of an action."""
        kind, chunk, _ = action
        if kind is Kind.F:
            return self.forward[chunk]
        return (self.input[chunk] if kind is not Kind.W else 0) + (self.weight[chunk] if kind is not Kind.B else 0)

    def held(self, action: Action) -> float:
        """How much more memory is held after an action than before it; less, where negative."""
        kind, chunk, _ = action
        share = {Kind.F: 1.0, Kind.B: self.kept - 1, Kind.W: -self.kept, Kind.BW: -1.0}[kind]
        return share * self.memory[chunk]


class Event(NamedTuple):
    """An action in time."""

    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """A schedule in time: of each rank its events, in order."""

    schedule: Schedule
    rows: tuple[tuple[Event, ...], ...]

    @property
    def length(self) -> float:
        """From the first start to the last end on any rank."""
        return max(row[-1].end for row in self.rows) - min(row[0].start for row in self.rows)

    @property
    def busy(self) -> float:
        """Time of all actions of all ranks."""
        return sum(event.end - event.start for row in self.rows for event in row)

    @property
    def bubble(self) -> float:
        """The share of all ranks' time that is idle in one step by itself, from the first start to the last end."""
        return 1 - self.busy / (self.length * self.schedule.ranks)


def simulate(schedule: Schedule, costs: Costs) -> Timeline:
    """The schedule in time.

    Raises:
        ValueError: ranks wait for each other for ever; the message names what the first of them waits for.
    """
    if len(costs.forward) != schedule.chunks:
        raise ValueError(f"{schedule.name} has {schedule.chunks} chunks, the costs are of {len(costs.forward)}")
    done: dict[Action, float] = {}
    rows: list[list[Event]] = [[] for _ in schedule.rows]
    clocks, left = [0.0] * schedule.ranks, sum(map(len, schedule.rows))
    while left:
        before = left
        for rank, row in enumerate(schedule.rows):
            events = rows[rank]
            while len(events) < len(row):
                action = row[len(events)]
                ready = _ready(schedule, costs, done, rank, action)
                if ready is None:
                    break
                start = max(clocks[rank], ready)
                clocks[rank] = end = start + costs.of(action)
                events.append(Event(action, start, end))
                done[Action(Kind.B, *action[1:]) if action.kind is Kind.BW else action] = end
                left -= 1
        if left == before:
            rank = next(rank for rank, row in enumerate(schedule.rows) if len(rows[rank]) < len(row))
            action = schedule.rows[rank][len(rows[rank])]
            missing = next(need for need in schedule.needs(action) if need not in done)
            raise ValueError(f"{schedule.name}: rank {rank} waits for ever with {action}, which needs {missing}")
    return Timeline(schedule, tuple(map(tuple, rows)))


def _ready(schedule: Schedule, costs: Costs, done: dict[Action, float], rank: int, action: Action) -> float | None:
    """When all that an action needs is on its rank; None where some of it is not made yet."""
    latest = 0.0
    for need in schedule.needs(action):
        end = done.get(need)
        if end is None:
            return None
        latest = max(latest, end if schedule.rank_of[need.chunk] == rank else end + costs.message)
    return latest


def steady_bubble(schedule: Schedule, costs: Costs, steps: int = 4) -> float:
    """The share of time that is idle where steps follow each other without all ranks waiting for each other between.

    A rank that is done then starts its next step, so that the end of one step and the start of the next overlap. Taken
    from the last two of some steps.
    """
    m = schedule.micro_batches
    rows = tuple(
        tuple(action._replace(micro_batch=action.micro_batch + step * m) for step in range(steps) for action in row)
        for row in schedule.rows
    )
    many = simulate(Schedule(schedule.name, schedule.rank_of, steps * m, rows), costs)
    ends = [max(events[steps_end].end for events, steps_end in _ends(many, steps, before)) for before in (1, 0)]
    return 1 - many.busy / steps / ((ends[1] - ends[0]) * schedule.ranks)


def _ends(many: Timeline, steps: int, before: int) -> Iterator[tuple[tuple[Event, ...], int]]:
    """Of each rank its events and the index of the last one, ``before`` steps before the end."""
    for events in many.rows:
        yield events, len(events) // steps * (steps - before) - 1


def memory_after(row: Sequence[Action], costs: Costs) -> Iterator[float]:
    """What a rank holds after each action of its row."""
    held = 0.0
    for action in row:
        held += costs.held(action)
        yield held


def peak_memory(schedule: Schedule, costs: Costs) -> tuple[float, ...]:
    """The most that each rank holds at a time."""
    return tuple(max(memory_after(row, costs)) for row in schedule.rows)
