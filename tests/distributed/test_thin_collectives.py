"""collectives.py: the same over mpi4py and gloo, nothing at all without a group."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from pyjpllm.distributed import collectives as c
from tests.mpi import run_ranks


def test_without_a_group_nothing_happens():
    x = torch.arange(4.0)
    assert c.all_reduce(x, None) is None
    assert c.all_gather(x, None) is x
    assert c.reduce_scatter(x, None) is x
    assert c.all_to_all(x, None) is x
    assert c.broadcast(x, None) is x
    assert c.broadcast_object(x, None) is x
    assert c.gather_objects(3, None) == [3]
    c.barrier(None)
    assert x.tolist() == [0, 1, 2, 3]


def walk(world):
    group, n, r = dist.group.WORLD, world.size, world.rank
    ranks = range(n)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for op, want in (("sum", 6.0), ("avg", 2.0), ("max", 3.0), ("min", 1.0), ("product", 6.0)):
            x = torch.full((5,), r + 1.0, dtype=dtype)
            assert c.all_reduce(x, group, op) is None
            assert x.eq(want).all(), (op, dtype, x)
            x = torch.full((5,), r + 1.0, dtype=dtype)
            work = c.all_reduce(x, group, op, async_op=True)
            work.wait()
            work.wait()  # harmless
            assert work.is_completed()
            assert x.eq(want).all(), (op, dtype, x)
    x = torch.arange(6.0).view(2, 3) + 10 * r
    every = [torch.arange(6.0).view(2, 3) + 10 * p for p in ranks]
    for dim in (0, 1, -1):
        assert torch.equal(c.all_gather(x, group, dim), torch.cat(every, dim))
    sizes = [2, 0, 3]
    for dim, shape in ((0, lambda s: (s, 2)), (1, lambda s: (2, s))):
        pieces = [torch.full(shape(s), float(p)) for p, s in enumerate(sizes)]
        assert torch.equal(c.all_gather(pieces[r], group, dim, sizes), torch.cat(pieces, dim))
    whole = torch.arange(18.0).view(6, 3)
    for dim in (0, 1):
        got = c.reduce_scatter(whole * (r + 1), group, dim)
        assert torch.equal(got, (whole * 6).chunk(n, dim)[r])
    sizes = [1, 3, 2]
    kept = whole.clone()
    got = c.reduce_scatter(whole, group, 0, sizes)
    assert torch.equal(got, (kept * n).split(sizes)[r])
    assert torch.equal(whole, kept)  # the input stays
    with pytest.raises(ValueError, match="does not divide by 3 ranks"):
        c.reduce_scatter(torch.ones(4), group)
    got = c.all_to_all(torch.arange(6.0).view(6, 1) + 10 * r, group)
    assert got.flatten().tolist() == [10 * p + 2 * r + i for p in ranks for i in (0, 1)]
    rows = [[(p + q) % 3 for q in ranks] for p in ranks]
    x = torch.cat([torch.full((rows[r][q], 2), 10.0 * r + q) for q in ranks])
    got = c.all_to_all(x, group, [rows[p][r] for p in ranks], rows[r])
    assert torch.equal(got, torch.cat([torch.full((rows[p][r], 2), 10.0 * p + r) for p in ranks]))
    assert c.broadcast(torch.tensor([float(r)]), group, 2).item() == 2
    assert c.broadcast_object({"r": r}, group, 1) == {"r": 1}
    assert c.gather_objects(("x", r), group, 1) == ([("x", p) for p in ranks] if r == 1 else None)
    c.barrier(group)
    pair = dist.new_group([1, 2])
    if r in (1, 2):  # src and dst are counted in the group
        assert c.broadcast(torch.tensor([float(r)]), pair, 0).item() == 1
        assert c.broadcast_object(r, pair, 1) == 2
        assert c.gather_objects(r, pair, 0) == ([1, 2] if r == 1 else None)


@pytest.mark.parametrize("backend", ["mpi4py", "gloo"])
def test_the_same_over_both(backend):
    run_ranks(walk, 3, backend=backend)
