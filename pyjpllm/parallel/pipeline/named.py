"""The schedules of the literature, as tables.

p ranks, m micro-batches, v chunks a rank. Placements: in a `straight` one rank r holds chunks r, p + r, ...; in a V
rank r holds chunk r on the way down and chunk 2p - 1 - r on the way up.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

from pyjpllm.parallel.layout import split_sizes
from pyjpllm.parallel.pipeline.table import Action, Kind, Schedule


def straight(ranks: int, chunks_per_rank: int = 1) -> tuple[int, ...]:
    """The rank of each chunk where they go round the ranks."""
    return tuple(range(ranks)) * chunks_per_rank


def v_shape(ranks: int) -> tuple[int, ...]:
    """The rank of each chunk where the second half goes back the way of the first: first and last chunk on rank 0."""
    return (*range(ranks), *reversed(range(ranks)))


def gpipe(ranks: int, micro_batches: int) -> Schedule:
    """All forwards, then all backwards (Huang et al., 2019, arXiv:1811.06965)."""
    rows = tuple(
        (
            *(Action(Kind.F, rank, m) for m in range(micro_batches)),
            *(Action(Kind.BW, rank, m) for m in range(micro_batches)),
        )
        for rank in range(ranks)
    )
    return Schedule("gpipe", straight(ranks), micro_batches, rows)


def one_f_one_b(ranks: int, micro_batches: int) -> Schedule:
    """1F1B: a rank has at most as many micro-batches in flight as ranks follow (Narayanan et al., 2019)."""
    rows = tuple(
        tuple(
            _alternate(
                [Action(Kind.F, rank, m) for m in range(micro_batches)],
                [Action(Kind.BW, rank, m) for m in range(micro_batches)],
                ranks - 1 - rank,
            )
        )
        for rank in range(ranks)
    )
    return Schedule("1f1b", straight(ranks), micro_batches, rows)


def interleaved(ranks: int, micro_batches: int, chunks_per_rank: int = 2) -> Schedule:
    """1F1B with several chunks a rank (Narayanan et al., 2021, arXiv:2104.04473).

    Micro-batches go in groups of p: each goes through the rank's first chunk, then each through the second, and so on.
    Where p does not divide m, groups are larger (smaller ones would leave ranks waiting for each other for ever).
    """
    rounds = max(1, micro_batches // ranks)
    ends = [0, *accumulate(split_sizes(micro_batches, rounds))]
    groups = [range(start, end) for start, end in pairwise(ends)]
    rows = []
    for rank in range(ranks):
        mine = [layer * ranks + rank for layer in range(chunks_per_rank)]
        forwards = [Action(Kind.F, chunk, m) for group in groups for chunk in mine for m in group]
        backwards = [Action(Kind.BW, chunk, m) for group in groups for chunk in reversed(mine) for m in group]
        warm_up = 2 * (ranks - 1 - rank) + (chunks_per_rank - 1) * len(groups[0])
        rows.append(tuple(_alternate(forwards, backwards, warm_up)))
    return Schedule("interleaved", straight(ranks, chunks_per_rank), micro_batches, tuple(rows))


def _alternate(forwards: list[Action], backwards: list[Action], warm_up: int) -> Iterator[Action]:
    """Forwards for the warm-up, then one of each in turn."""
    ahead = min(warm_up, len(forwards))
    yield from forwards[:ahead]
    for forward, backward in zip(forwards[ahead:], backwards, strict=False):
        yield forward
        yield backward
    yield from backwards[len(forwards) - ahead :]


def zb_h1(ranks: int, micro_batches: int) -> Schedule:
    """Zero bubble with the memory of 1F1B (Qi et al., 2023, arXiv:2401.10241).

    1F1B with W apart: rank r does it r micro-batches after B, which fills the end of its row.
    """
    rows = []
    for rank in range(ranks):
        forwards = [Action(Kind.F, rank, m) for m in range(micro_batches)]
        inputs = [Action(Kind.B, rank, m) for m in range(micro_batches)]
        row: list[Action] = []
        for action in _alternate(forwards, inputs, ranks - 1 - rank):
            row.append(action)
            if action.kind is Kind.B and action.micro_batch >= rank:
                row.append(Action(Kind.W, rank, action.micro_batch - rank))
        row += [Action(Kind.W, rank, m) for m in range(max(0, micro_batches - rank), micro_batches)]
        rows.append(tuple(row))
    return Schedule("zb-h1", straight(ranks), micro_batches, tuple(rows))


def zb_v(ranks: int, micro_batches: int) -> Schedule:
    """Two chunks a rank in a V: no bubble in the memory of 1F1B, where F, B and W take the same (arXiv:2405.15362).

    Rank r starts with 2 (p - r) - 1 forwards of its first chunk, which cover the way of a micro-batch down and up the V
    to its second one; from there on it does F, B, W of either chunk in turn. At the end r pairs of B come before their
    W, so that the ranks before get them early. With fewer than 2p - 1 micro-batches some of this is cut short.
    """
    rows = tuple(tuple(_v_row(ranks, rank, micro_batches)) for rank in range(ranks))
    return Schedule("zb-v", v_shape(ranks), micro_batches, rows)


def _v_row(ranks: int, rank: int, micro_batches: int) -> Iterator[Action]:
    down, up = rank, 2 * ranks - 1 - rank
    made = {(kind, chunk): 0 for kind in (Kind.F, Kind.B, Kind.W) for chunk in (down, up)}

    def take(kind: Kind, chunk: int) -> Iterator[Action]:
        """The next of a kind, if there is one and what it needs on this rank is done."""
        count = made[kind, chunk]
        before = {Kind.F: micro_batches, Kind.B: made[Kind.F, chunk], Kind.W: made[Kind.B, chunk]}[kind]
        if count < before and not (kind is Kind.F and chunk == up and count >= made[Kind.F, down]):
            made[kind, chunk] += 1
            yield Action(kind, chunk, count)

    for _ in range(2 * (ranks - rank) - 1):
        yield from take(Kind.F, down)
    for _ in range(rank):
        yield from take(Kind.F, up)
        yield from take(Kind.F, down)
    for _ in range(ranks - rank):
        for kind in (Kind.F, Kind.B, Kind.W):
            yield from take(kind, up)
    while made[Kind.F, up] < micro_batches:
        for chunk in (down, up):
            for kind in (Kind.F, Kind.B, Kind.W):
                yield from take(kind, chunk)
    for _ in range(rank):
        yield from take(Kind.B, down)
        yield from take(Kind.B, up)
    while made[Kind.B, down] < micro_batches:
        yield from take(Kind.B, down)
        yield from take(Kind.W, down)
    for chunk in (up, down):
        while made[Kind.W, chunk] < micro_batches:
            yield from take(Kind.B, chunk)
            yield from take(Kind.W, chunk)


def one_step_bubble(name: str, ranks: int, micro_batches: int, chunks_per_rank: int = 2) -> float | None:
    """The idle share of one step in closed form, where F, B and W take the same and messages nothing.

    None where there is no such form: fewer micro-batches than fill the pipeline, or for `interleaved` a number that p
    does not divide.
    """
    p, m = ranks, micro_batches
    if name in ("gpipe", "1f1b"):
        return (p - 1) / (m + p - 1)
    if name == "interleaved" and m % p == 0:
        return (p - 1) / (chunks_per_rank * m + p - 1)
    if name == "zb-h1" and m >= p:
        return (p - 1) / (3 * m + p - 1)
    if name == "zb-v" and m >= 2 * p - 1:
        return (p - 1) / (6 * m + p - 1)
    return None


def named(name: str, ranks: int, micro_batches: int, chunks_per_rank: int = 2) -> Schedule:
    """The schedule of that name, one of `NAMES`. ``chunks_per_rank`` is read by `interleaved` only."""
    if name == "interleaved":
        return interleaved(ranks, micro_batches, chunks_per_rank)
    makers = {"gpipe": gpipe, "1f1b": one_f_one_b, "zb-h1": zb_h1, "zb-v": zb_v}
    return makers[name](ranks, micro_batches)


NAMES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-v")
