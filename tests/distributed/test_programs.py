"""Plain torch programs (DDP, FSDP2, DTensor, pipelines, checkpoints) give over MPI what they give over gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.distributed import _programs as programs
from tests.mpi import run_ranks


def numbers(result: Any) -> list[torch.Tensor]:
    """Every number in a nested result, as FP64."""
    if isinstance(result, torch.Tensor):
        return [result.double().flatten()]
    if isinstance(result, dict):
        return [x for key in sorted(result) for x in numbers(result[key])]
    if isinstance(result, (list, tuple)):
        return [x for item in result for x in numbers(item)]
    return [torch.tensor([float(result)], dtype=torch.float64)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    results = {
        backend: run_ranks(programs.all_programs, 4, folder, backend=backend, timeout=400)
        for backend in ("mpi4py", "gloo")
    }
    return {**results, "folder": folder}


COMPARED = [body.__name__ for body in programs.BODIES if body is not programs.fsdp2_bf16]


@pytest.mark.parametrize("name", [*COMPARED, "saved"])
def test_the_same_as_over_gloo(runs, name):
    for rank in range(4):
        ours, theirs = numbers(runs["mpi4py"][rank][name]), numbers(runs["gloo"][rank][name])
        for a, b in zip(ours, theirs, strict=True):
            # FP32 sums of four numbers in another order: a few last bits, and AdamW makes more of small gradients'.
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


def test_sharded_bf16_learns(runs):
    for result in runs["mpi4py"]:
        losses = result["fsdp2_bf16"]
        assert losses == runs["mpi4py"][0]["fsdp2_bf16"]
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("nranks", [1, 2])
def test_checkpoints_load_on_other_numbers_of_ranks(runs, nranks):
    folders = [f"{runs['folder']}/{name}" for name in ("mpi4py", "mpi4py-async", "gloo")]
    saved = {name: runs[name][0]["saved"] for name in ("mpi4py", "gloo")}
    if nranks == 1:
        results = run_ranks(load_alone, 1, *folders)
    else:
        results = run_ranks(programs.load_all, nranks, *folders)
    for result in results:
        for (step, weights), name in zip(result, ("mpi4py", "mpi4py", "gloo"), strict=True):
            assert step == 4
            for ours, theirs in zip(weights, saved[name], strict=True):
                assert torch.equal(ours, theirs)


def load_alone(world, *folders):
    """One process, no launcher: torch's own way in, with our rendezvous."""
    import torch.distributed as dist

    assert not dist.is_initialized()
    dist.init_process_group("mpi4py", init_method="mpi4py://")
    return programs.load_all(world, *folders)
