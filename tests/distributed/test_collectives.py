"""Every collective call of torch.distributed over MPI, by type, operation, size and form."""

from __future__ import annotations

import pytest
import torch

from pyjpllm.distributed import runtime
from tests.distributed import _walks as walks
from tests.distributed.test_cores import WITH_A_THREAD
from tests.mpi import run_ranks


def everything(world):
    counts = [walks.reductions(world, walks.ALL), walks.movements(world, walks.ALL)]
    for walk in (walks.uneven, walks.strided, walks.in_place, walks.premultiplied, walks.coalesced, walks.short_forms):
        walk(world)
    walks.sparse(world)
    walks.identity(world)
    counts.append(walks.in_pieces(world))
    objects, refusals = walks.objects(world), walks.refused(world)
    runtime.start(deterministic=True)  # from here on sums of FP32 and FP64 go the ordered way too
    counts.append(walks.reductions(world, walks.FLOATS + walks.COMPLEX))
    return counts, objects, refusals


@pytest.mark.parametrize(("nranks", "env"), [(2, WITH_A_THREAD), (3, {}), (4, {})], ids=["2, thread", "3", "4"])
def test_every_call_gives_what_its_formula_says(nranks, env):
    results = run_ranks(everything, nranks, timeout=300, env=env)
    for rank, (counts, (everyone, at_root, box, mine, got), refusals) in enumerate(results):
        assert counts == [1420, 360, 460, 480]
        assert everyone == [{"rank": p, "text": "あ" * (p + 1)} for p in range(nranks)]
        assert at_root == ([("x", p) for p in range(nranks)] if rank == 1 else None)
        assert box == [{"from": nranks - 1}, [nranks - 1]]
        assert mine == [f"for {rank}"]
        assert got == (["hello", 3] if rank == 1 else [None, None])
        assert len(refusals) == 13
        assert all(message.startswith("mpi4py: ") and "\n" not in message for message in refusals), refusals


def control(world):
    # What gloo can do: the formulas of this file are its formulas.
    checked = walks.reductions(world, (torch.float32, torch.float64, torch.int32), ("SUM", "PRODUCT", "MIN", "MAX"))
    walks.sparse(world)
    return checked + walks.movements(world, (torch.float32, torch.int64))


def test_gloo_agrees_with_the_formulas():
    assert run_ranks(control, 2, backend="gloo") == [180, 180]
