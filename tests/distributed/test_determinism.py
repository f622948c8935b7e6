"""Sums in rank order: the same bits whatever the alignment, the chunks and the run; 16-bit sums are FP32 sums."""

from __future__ import annotations

import hashlib

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.distributed import combining, hierarchy, reductions, runtime
from tests.distributed.test_cores import WITH_A_THREAD
from tests.mpi import run_ranks

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def noise(rank: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers over many binades: their sum depends on the order."""
    generator = torch.Generator().manual_seed(rank)
    exponents = torch.randint(-8, 8, (size,), generator=generator)
    return (torch.randn(size, generator=generator, dtype=torch.float64) * 2.0**exponents).to(dtype)


def in_rank_order(xs: list[torch.Tensor]) -> torch.Tensor:
    wide = torch.float32 if xs[0].dtype in (torch.float16, torch.bfloat16) else xs[0].dtype
    total = xs[0].to(wide)
    for x in xs[1:]:
        total = total + x.to(wide)
    return total.to(xs[0].dtype)


def digest(x: torch.Tensor) -> str:
    return hashlib.sha256(x.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def walk(world, segment):
    hierarchy.SEGMENT, hierarchy.MESSAGE = segment, 1
    runtime.start(deterministic=True)
    n, r = world.size, world.rank
    size = 300_001
    digests = []
    for dtype in DTYPES:
        every = [noise(p, size, dtype) for p in range(n)]
        want = in_rank_order(every)
        for offset in (0, 1, 3, 17):
            memory = torch.empty(size + offset, dtype=dtype)
            x = memory[offset:]
            x.copy_(every[r])
            dist.all_reduce(x)
            assert torch.equal(x, want), (dtype, offset)
        for pieces in (2, 7):  # a sum of pieces is the pieces of the sum
            x = every[r].clone()
            for piece in x.chunk(pieces):
                dist.all_reduce(piece)
            assert torch.equal(x, want), (dtype, pieces)
        for cut in (10, 5_000):  # small sums go another way
            x = every[r][:cut].clone()
            dist.all_reduce(x)
            assert torch.equal(x, want[:cut]), (dtype, cut)
        out = torch.empty(size // n, dtype=dtype)
        dist.reduce_scatter(out, list(every[r][: size // n * n].chunk(n)))
        assert torch.equal(out, want[: size // n * n].chunk(n)[r])
        x = every[r].clone()
        dist.reduce(x, 1)
        assert r != 1 or torch.equal(x, want)
        digests.append(digest(want))
    return digests


def test_one_set_of_bits():
    first = run_ranks(walk, 3, 8 << 20, fresh=True)
    again = run_ranks(walk, 3, 100_000, env=WITH_A_THREAD)  # other chunks, another launch, another engine
    assert first == again
    assert len({tuple(d) for d in first}) == 1


@given(
    st.integers(1, 6),
    st.integers(0, 200),
    st.sampled_from(DTYPES),
    st.sampled_from(["sum", "avg", "product", "min", "max"]),
)
def test_combining_is_elementwise(ranks, size, dtype, kind):
    """So the bits cannot depend on how the data was cut."""
    parts = [noise(p, size, dtype) for p in range(ranks)]
    whole = torch.empty(size, dtype=dtype)
    combining.combine(parts, whole, kind)
    cut = size // 3
    for piece in (slice(0, cut), slice(cut, size)):
        out = parts[0][piece].clone()
        combining.combine([out, *[p[piece] for p in parts[1:]]], out, kind)  # in place, as the exchange does it
        assert torch.equal(out, whole[piece]) or (out.isnan() == whole[piece].isnan()).all()


@given(st.integers(0, 10_000), st.integers(1, 9))
def test_cutting_loses_nothing(size, ranks):
    flat = torch.arange(size)
    pieces = reductions._cut(flat, ranks)
    assert len(pieces) == ranks
    assert torch.equal(torch.cat(pieces), flat)


def test_sixteen_bit_sums_are_taken_in_fp32():
    ones = [torch.ones(4, dtype=torch.bfloat16)] * 300  # BF16 alone would stop at 256
    out = torch.empty(4, dtype=torch.bfloat16)
    combining.combine(ones, out, "sum")
    assert out.eq(300).all()


@pytest.mark.parametrize(("op", "kind"), [("SUM", "sum"), ("AVG", "avg"), ("PRODUCT", "product"), ("BXOR", "bxor")])
def test_operations_are_taken_apart(op, kind):
    member = getattr(dist.ReduceOp, op)
    for given_op in (member, dist.ReduceOp(member)):
        assert reductions.parse(given_op) == reductions.Reduction(kind)
