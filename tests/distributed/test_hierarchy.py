"""Collectives in two levels, on nodes that are pretended: 2 of 2 ranks, 4 of 2, 2 of 4.

Held against the flat way on the same ranks, against sums in the documented order bit by bit, and against what
docs/distributed.md says leaves a node.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.collectives import bytes_across
from pyjpllm.distributed import World, combining, compat, hierarchy, reductions, runtime
from pyjpllm.distributed.hierarchy import Levels, node_of, ranks_per_node
from pyjpllm.distributed.transport import Communicator
from pyjpllm.errors import UserError
from tests.distributed import _walks as walks
from tests.distributed.test_determinism import noise
from tests.mpi import run_ranks

R = dist.ReduceOp
LARGE = 9_001  # past the size up to which one all-gather does it, in every type


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_groups_that_are_made_of_nodes(nodes: int, width: int, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.integers(0, 1000), min_size=nodes, max_size=nodes, unique=True))
    of_ranks = [name for name in names for _ in range(width)]
    assert ranks_per_node(of_ranks) == (width if nodes > 1 and width > 1 else nodes * width)
    if nodes > 1 and width > 1:  # one level where a node has fewer, or its ranks lie apart
        assert ranks_per_node(of_ranks[:-1]) == len(of_ranks) - 1
        assert ranks_per_node(of_ranks[1:] + of_ranks[:1]) == len(of_ranks)


def test_some_groups_that_are_not() -> None:
    for nodes in ([5], [0, 1], [0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 2]):
        assert ranks_per_node(nodes) == len(nodes)


@given(st.integers(1, 5), st.integers(1, 5))
def test_who_sends_to_whom(nodes: int, width: int) -> None:
    size = nodes * width
    every = [Levels(size, rank, width) for rank in range(size)]
    for rank, levels in enumerate(every):
        assert levels.node * width + levels.place == rank
        assert sorted([rank, *levels.inside()]) == list(range(levels.node * width, (levels.node + 1) * width))
        assert sorted([rank, *levels.across()]) == list(levels.at(levels.place, range(size)))
        assert all(rank in every[peer].inside() for peer in levels.inside())
        assert all(rank in every[peer].across() for peer in levels.across())


def test_pretended_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [8, 9, 10, 11, 12]
    monkeypatch.delenv(hierarchy.PRETENDED, raising=False)
    assert [node_of(members, place) for place in range(5)] == [8] * 5
    monkeypatch.setenv(hierarchy.PRETENDED, "2")
    assert [node_of(members, place) for place in range(5)] == [8, 8, 10, 10, 12]
    for text in ("", "0", "-1", "two", "２"):
        monkeypatch.setenv(hierarchy.PRETENDED, text)
        with pytest.raises(UserError, match=r"PYJPLLM_RANKS_PER_NODE = .*: a number of ranks, at least 1"):
            node_of(members, 0)


def test_what_is_too_short_for_fp32_sums_goes_the_flat_way() -> None:
    def width(per_node: int, dtype: torch.dtype, kind: str) -> int:
        c: Communicator = SimpleNamespace(size=12, rank=0, per_node=per_node)  # type: ignore[assignment]
        return reductions.levels_for(c, dtype, kind).width

    assert width(2, torch.bfloat16, "sum") == 2
    assert width(2, torch.float8_e5m2, "sum") == 12  # four bytes across for two
    assert width(4, torch.float8_e5m2, "sum") == 4
    assert width(2, torch.float8_e5m2, "max") == 2  # exact in its own type


def by_level(xs: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """The sum as documented: a node's ranks in their order, then the nodes, in FP32 or wider, rounded once."""
    wide = torch.float32 if xs[0].dtype.itemsize == 2 else xs[0].dtype
    nodes = []
    for first in range(0, len(xs), width):
        total = xs[first].to(wide)
        for x in xs[first + 1 : first + width]:
            total = total + x.to(wide)
        nodes.append(total)
    total = nodes[0]
    for partial in nodes[1:]:
        total = total + partial
    return total.to(xs[0].dtype)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 100), st.sampled_from(walks.FLOATS))
def test_combining_by_level(nodes: int, width: int, numel: int, dtype: torch.dtype) -> None:
    parts = [noise(rank, numel, dtype) for rank in range(nodes * width)]
    out = torch.empty(numel, dtype=dtype)
    combining.combine_by_level(Levels(nodes * width, 0, width), parts, out, "sum")
    assert torch.equal(out, by_level(parts, width))


def test_sixteen_bits_are_rounded_once() -> None:
    parts = [torch.full((3,), value, dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0, 0.0)]
    out = torch.empty(3, dtype=torch.bfloat16)
    combining.combine_by_level(Levels(4, 0, 2), parts, out, "sum")
    assert out.eq(258.0).all()  # the first node's 257 alone would be 256


def check(world: World, widths: Sequence[int], segment: int) -> None:
    hierarchy.SEGMENT, hierarchy.MESSAGE = segment, 1
    two = dist.group.WORLD
    flat = dist.new_group()
    assert two is not None
    assert two._c.per_node == flat._c.per_node == widths[0]
    flat._c.per_node = world.size
    for width in widths:
        two._c.per_node = width
        as_the_flat_way(world, two, flat)
        gathers(world, two)
        many_under_way(world, two)
        traffic(world, two, flat, width)
    runtime.start(deterministic=True)
    for width in widths:
        two._c.per_node = width
        one_set_of_bits(world, width)


def as_the_flat_way(world: World, two: dist.ProcessGroup, flat: dist.ProcessGroup) -> None:
    n, r = world.size, world.rank
    averages = [(dtype, R.AVG) for dtype in (*walks.FLOATS, *walks.COMPLEX)]
    for dtype, op in (*averages, (torch.bfloat16, R.SUM), (torch.bfloat16, R.MAX), (torch.float16, R.PRODUCT)):
        found = [walks.data(r, LARGE, dtype) for _ in range(2)]
        for x, group in zip(found, (two, flat), strict=True):
            dist.all_reduce(x, op, group=group)
        assert torch.equal(*found), (dtype, op)  # whole numbers: exact, an average of them divides the same sum
        sizes = [LARGE // n + 5 * p for p in range(n)]
        found = [torch.empty(sizes[r], dtype=dtype) for _ in range(2)]
        for x, group in zip(found, (two, flat), strict=True):
            dist.reduce_scatter(x, [walks.data(r, s, dtype, salt=p) for p, s in enumerate(sizes)], op, group=group)
        assert torch.equal(*found), (dtype, op)
    signs = torch.sign(noise(r, LARGE, torch.float64))
    for numbers, op in ((noise(r, LARGE, torch.float64), R.SUM), (signs, R.PRODUCT)):
        x, y = numbers.clone(), numbers.clone()
        dist.all_reduce(x, op, group=two)
        dist.all_reduce(y, op, group=flat)
        scale = sum(noise(p, LARGE, torch.float64).abs() for p in range(n)) if op == R.SUM else 1.0
        assert ((x - y).abs() <= 1e-12 * scale).all()
    walks.in_place(world)
    x = torch.ones(LARGE, 2)[:, 0]
    dist.all_reduce(x)
    assert x.eq(n).all()


def gathers(world: World, two: dist.ProcessGroup) -> None:
    n, r = world.size, world.rank
    for dtype, apart in ((torch.bool, False), (torch.bfloat16, True), (torch.float64, True)):
        sizes = [LARGE // 2 * (p % 3) + 7 for p in range(n)]
        every = [walks.data(p, size, dtype) for p, size in enumerate(sizes)]
        outs = [torch.empty(size, dtype=dtype) for size in sizes]
        if not apart:
            outs = list(torch.empty(sum(sizes), dtype=dtype).split(sizes))
        dist.all_gather(outs, every[r])
        assert all(map(torch.equal, outs, every)), dtype
    whole, mine = torch.zeros(n * LARGE), walks.data(r, LARGE, torch.float32)
    whole[r * LARGE : (r + 1) * LARGE] = mine
    compat.all_gather_single(whole, whole[r * LARGE : (r + 1) * LARGE], group=two)
    assert torch.equal(whole, torch.cat([walks.data(p, LARGE, torch.float32) for p in range(n)]))


def many_under_way(world: World, two: dist.ProcessGroup) -> None:
    """Operations of one lane, several in one of them: messages find theirs whoever is late."""
    n, r = world.size, world.rank
    waiting = []
    for turn in range(3):
        outs = [[torch.empty(LARGE) for _ in range(n)] for _ in range(3)]
        gathered = two.allgather(outs, [torch.full((LARGE,), 10.0 * turn + r + i) for i in range(3)])
        total = torch.full((LARGE,), 1.0 + r, dtype=torch.bfloat16)
        waiting.append((turn, outs, gathered, total, two.allreduce([total])))
    for turn, outs, gathered, total, summed in waiting:
        gathered.wait()
        summed.wait()
        assert total.eq(n * (n + 1) // 2).all()
        for i, p in itertools.product(range(3), range(n)):
            assert outs[i][p].eq(10.0 * turn + p + i).all()


def traffic(world: World, two: dist.ProcessGroup, flat: dist.ProcessGroup, width: int) -> None:
    n, r = world.size, world.rank
    nodes = n // width
    numel = n * 32 * 200  # its segments divide into slices of whole cache lines
    share = (nodes - 1) * (numel // n)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        own, between = dtype.itemsize, max(dtype.itemsize, 4)
        x, piece = torch.ones(numel, dtype=dtype), torch.ones(numel // n, dtype=dtype)
        with bytes_across(width) as count:
            dist.all_reduce(x, group=two)
            assert count == [share * (between + own)]
            compat.reduce_scatter_single(piece, x, group=two)
            assert count == [share * (2 * between + own)]
            compat.all_gather_single(x, piece, group=two)
            assert count == [share * (2 * between + 2 * own)]
        with bytes_across(width) as count:
            dist.all_reduce(x, group=flat)
            compat.reduce_scatter_single(piece, x, group=flat)
            assert count == [share * 3 * own * width]
    sizes = [3 * p + 3000 for p in range(n)]
    out = torch.empty(sizes[r])
    with bytes_across(width) as count:
        dist.reduce_scatter(out, [torch.ones(size) for size in sizes])
        assert count == [4 * sum(sizes[p] for p in range(n) if p % width == r % width and p != r)]
    with bytes_across(width) as count:
        dist.all_gather([torch.empty(size) for size in sizes], torch.ones(sizes[r]))
        assert count == [4 * sizes[r] * (nodes - 1)]


def one_set_of_bits(world: World, width: int) -> None:
    n, r = world.size, world.rank
    for dtype in walks.FLOATS:
        every = [noise(p, LARGE, dtype) for p in range(n)]
        want = by_level(every, width)
        for cuts in ([LARGE], [100, LARGE - 100]):  # a sum of pieces, large and small, is the pieces of the sum
            x = every[r].clone()
            for piece in x.split(cuts):
                dist.all_reduce(piece)
            assert torch.equal(x, want), (dtype, cuts)
        shares = want[: LARGE // n * n].chunk(n)
        out = torch.empty(LARGE // n, dtype=dtype)
        dist.reduce_scatter(out, list(every[r][: LARGE // n * n].chunk(n)))
        assert torch.equal(out, shares[r])
        x = every[r].clone()
        dist.reduce(x, 1)
        assert r != 1 or torch.equal(x, want)


@pytest.mark.parametrize(("ranks", "widths", "segment"), [(4, (2,), 8 << 20), (8, (4, 2), 1 << 15)])
def test_two_levels(ranks: int, widths: tuple[int, ...], segment: int) -> None:
    run_ranks(check, ranks, widths, segment, env={hierarchy.PRETENDED: str(widths[0])}, timeout=300)
