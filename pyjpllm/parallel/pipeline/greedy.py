"""Schedules by list scheduling: in the order of time, each idle rank takes the best of what it could start.

First the gradient of an input, because other ranks wait for it; then a forward, as far as memory allows; a weight
gradient where there is nothing else, or where memory is used up. So W fills what would be a bubble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pyjpllm.parallel.pipeline.table import Action, Kind, Schedule
from pyjpllm.parallel.pipeline.timeline import Costs

EPSILON = 1e-9


@dataclass
class _Rank:
    """One rank while the schedule is made."""

    chunks: tuple[int, ...]
    clock: float = 0.0
    held: float = 0.0
    row: list[Action] = field(default_factory=list)
    next_forward: dict[int, int] = field(default_factory=dict)
    next_input: dict[int, int] = field(default_factory=dict)
    weights: list[Action] = field(default_factory=list)


def list_schedule(
    name: str,
    rank_of: Sequence[int],
    micro_batches: int,
    costs: Costs,
    limits: Sequence[float],
    *,
    patience: float = 0.0,
    spread: bool = False,
) -> Schedule:
    """A schedule that holds at most ``limits`` of memory on each rank.

    Args:
        name: the schedule's.
        rank_of: the rank of each chunk.
        micro_batches: how many.
        costs: what each chunk takes.
        limits: memory of each rank, in the unit of the costs.
        patience: a W starts only if what is known to come next leaves this share of its time free.
        spread: a rank that holds several chunks takes the forward of the shallowest that is ready, not the deepest.

    Raises:
        ValueError: a rank's memory does not hold one micro-batch of all of its chunks.
    """
    ranks = [_Rank(tuple(c for c, r in enumerate(rank_of) if r == rank)) for rank in range(max(rank_of) + 1)]
    for rank, (state, limit) in enumerate(zip(ranks, limits, strict=True)):
        least = sum(costs.memory[chunk] for chunk in state.chunks)
        if least > limit + EPSILON:
            raise ValueError(f"{name}: one micro-batch takes {least:g} of memory on rank {rank}, more than {limit:g}")
        state.next_forward = dict.fromkeys(state.chunks, 0)
        state.next_input = dict.fromkeys(state.chunks, 0)
    made = _Maker(tuple(rank_of), micro_batches, costs, tuple(limits), patience, spread, ranks)
    for _ in range(3 * len(rank_of) * micro_batches):
        made.step()
    return Schedule(name, tuple(rank_of), micro_batches, tuple(tuple(state.row) for state in ranks))


@dataclass
class _Maker:
    rank_of: tuple[int, ...]
    micro_batches: int
    costs: Costs
    limits: tuple[float, ...]
    patience: float
    spread: bool
    ranks: list[_Rank]
    done: dict[Action, float] = field(default_factory=dict)

    def step(self) -> None:
        """Start the action that can start first of what the ranks would take."""
        best: tuple[float, int, Action] | None = None
        for rank, state in enumerate(self.ranks):
            choice = self._choose(rank, state)
            if choice is not None and (best is None or choice[0] < best[0] - EPSILON):
                best = (choice[0], rank, choice[1])
        assert best is not None, "some rank can always go on: the last micro-batch in flight is never blocked"
        start, rank, action = best
        state = self.ranks[rank]
        state.row.append(action)
        state.clock = self.done[action] = start + self.costs.of(action)
        state.held += self.costs.held(action)
        if action.kind is Kind.F:
            state.next_forward[action.chunk] += 1
        elif action.kind is Kind.B:
            state.next_input[action.chunk] += 1
            state.weights.append(Action(Kind.W, *action[1:]))
        else:
            state.weights.remove(action)

    def _choose(self, rank: int, state: _Rank) -> tuple[float, Action] | None:
        """What the rank would do next, and when."""
        inputs = self._candidates(rank, state, Kind.B, state.next_input)
        forwards = self._candidates(rank, state, Kind.F, state.next_forward)
        room = [f for f in forwards if self._fits(rank, state, f[1])]
        soonest = min((start for start, _ in inputs + room), default=None)
        now = state.clock + EPSILON
        for ready in (inputs, room):
            first = [(start, action) for start, action in ready if start <= now]
            if first:
                order = min if self.spread and ready is room else max
                return order(first, key=lambda one: one[1].chunk)
        if state.weights:
            weight = state.weights[0]
            if soonest is None or soonest - state.clock >= self.patience * self.costs.of(weight) - EPSILON:
                return state.clock, weight
        return min(inputs + room, key=lambda one: (one[0], -one[1].chunk), default=None)

    def _candidates(self, rank: int, state: _Rank, kind: Kind, following: dict[int, int]) -> list[tuple[float, Action]]:
        """The next action of a kind in each chunk of which all that it needs is made, with when it can start."""
        found = []
        for chunk, micro_batch in following.items():
            if micro_batch == self.micro_batches:
                continue
            ends = []
            if kind is Kind.B:
                ends.append((rank, self.done.get(Action(Kind.F, chunk, micro_batch))))
                if chunk + 1 < len(self.rank_of):
                    ends.append((self.rank_of[chunk + 1], self.done.get(Action(Kind.B, chunk + 1, micro_batch))))
            elif chunk > 0:
                ends.append((self.rank_of[chunk - 1], self.done.get(Action(Kind.F, chunk - 1, micro_batch))))
            start = state.clock
            for holder, end in ends:
                if end is None:
                    break
                start = max(start, end if holder == rank else end + self.costs.message)
            else:
                found.append((start, Action(kind, chunk, micro_batch)))
        return found

    def _fits(self, rank: int, state: _Rank, action: Action) -> bool:
        """Whether memory allows a forward: the deeper chunks of this rank always keep room for one each.

        Otherwise forwards of the first chunk could fill the memory that the micro-batches in flight need to return.
        """
        reserve = sum(
            self.costs.memory[chunk]
            for chunk in state.chunks
            if chunk > action.chunk and state.next_forward[chunk] < self.micro_batches
        )
        return state.held + self.costs.memory[action.chunk] + reserve <= self.limits[rank] + EPSILON
