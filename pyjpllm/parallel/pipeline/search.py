"""A schedule of one's own: the best that a search finds for given times and a limit of memory.

Starts from the known schedules and from list schedules of several temperaments, and goes on from the best by moving
single actions within a rank's row, as long as nothing gets worse. Random, but always the same for the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random

from pyjpllm.parallel.pipeline.greedy import list_schedule
from pyjpllm.parallel.pipeline.named import one_f_one_b, straight, v_shape, zb_h1, zb_v
from pyjpllm.parallel.pipeline.table import Action, Schedule
from pyjpllm.parallel.pipeline.timeline import Costs, memory_after, peak_memory, simulate, steady_bubble

EPSILON = 1e-9
REACH = 12
"""How far a move takes an action."""


def search(
    rank_of: Sequence[int],
    micro_batches: int,
    costs: Costs,
    limit: float,
    *,
    steady: bool = False,
    tries: int = 2000,
    seed: int = 0,
    say: Callable[[int, float], None] | None = None,
) -> Schedule:
    """The schedule with the smallest bubble that was found.

    Args:
        rank_of: the rank of each chunk (`straight`, `v_shape`).
        micro_batches: of a step.
        costs: of each chunk.
        limit: memory that no rank may exceed, in the unit of the costs.
        steady: count the bubble of steps that follow each other without all ranks waiting between them, not of one.
        tries: moves that are tried.
        seed: of the moves.
        say: called every hundred tries with their number and the bubble.

    Raises:
        ValueError: the limit does not hold one micro-batch of a rank's chunks.
    """

    def bubble(schedule: Schedule) -> float:
        return steady_bubble(schedule, costs, 3) if steady else simulate(schedule, costs).bubble

    best_score, best = min(
        ((bubble(one), one) for one in _beginnings(tuple(rank_of), micro_batches, costs, limit)), key=lambda one: one[0]
    )
    random = Random(seed)
    for count in range(tries):
        if best_score < EPSILON:
            break
        if say is not None and count % 100 == 0:
            say(count, best_score)
        rank = random.randrange(best.ranks)
        row = _moved(best.rows[rank], random)
        if row is None or max(memory_after(row, costs)) > limit + EPSILON:
            continue
        candidate = replace(best, rows=(*best.rows[:rank], row, *best.rows[rank + 1 :]))
        try:
            score = bubble(candidate)
        except ValueError:  # ranks would wait for each other for ever
            continue
        if score <= best_score + EPSILON:  # equal ones too: a way may lead over them
            best_score, best = score, candidate
    return replace(best, name="searched")


def _beginnings(rank_of: tuple[int, ...], micro_batches: int, costs: Costs, limit: float) -> Iterator[Schedule]:
    """Schedules for this placement that keep to the limit."""
    ranks = max(rank_of) + 1
    limits = [limit] * ranks
    for patience in (0.0, 0.5, 1.0):
        for spread in (False, True):
            yield list_schedule("list", rank_of, micro_batches, costs, limits, patience=patience, spread=spread)
    known = []
    if rank_of == straight(ranks):
        known = [one_f_one_b(ranks, micro_batches), zb_h1(ranks, micro_batches)]
    elif rank_of == v_shape(ranks):
        known = [zb_v(ranks, micro_batches)]
    yield from (one for one in known if max(peak_memory(one, costs)) <= limit + EPSILON)


def _moved(row: tuple[Action, ...], random: Random) -> tuple[Action, ...] | None:
    """The row with one action elsewhere; None where that would put it on the wrong side of its own F, B or W."""
    start = random.randrange(len(row))
    end = min(max(start + random.choice((-1, 1)) * random.randint(1, REACH), 0), len(row) - 1)
    action = row[start]
    passed = row[start + 1 : end + 1] if end > start else row[end:start]
    if not passed or any(other[1:] == action[1:] for other in passed):
        return None
    rest = [*row[:start], *row[start + 1 :]]
    rest.insert(end, action)
    return tuple(rest)
