"""Sums in two levels, on nodes that are not: four ranks as 1 x 4, 2 x 2 and 4 x 1."""

from __future__ import annotations

import pytest
import torch

from pyjpllm.distributed import World, make_mesh
from pyjpllm.distributed.hierarchy import Hierarchy
from pyjpllm.errors import UserError
from tests.mpi import run_ranks


def of_rank(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(rank), dtype=torch.float64).to(dtype)


def check_sums(world: World) -> None:
    group = make_mesh(world, dp=4).group("dp")
    assert group is not None
    nodes = {size: Hierarchy.of(group, size) for size in (1, 2, 4)}
    for shape in ((1,), (3,), (4, 5), (1001,)):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            x = [of_rank(rank, shape, dtype) for rank in range(4)]
            for size, hierarchy in nodes.items():
                found = x[world.rank].clone()
                hierarchy.all_reduce(found)
                if size == 2 and dtype != torch.bfloat16:  # in this very order, to the last bit
                    assert torch.equal(found, (x[0] + x[1]) + (x[2] + x[3]))
                # Four terms, each rounding at most half a unit of a sum below 16.
                tolerance = 3 * 8 * torch.finfo(dtype).eps
                expected = torch.stack([y.double() for y in x]).sum(0)
                torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    strided = torch.ones(6, 4)[:, ::2]
    nodes[2].all_reduce(strided)
    assert torch.equal(strided, torch.full((6, 2), 4.0))
    with pytest.raises(UserError, match="4 ranks is not made of nodes of 3; the nearest number that fits is"):
        Hierarchy.of(group, 3)


@pytest.mark.parametrize("backend", ["mpi4py", "gloo"])
def test_sums(backend: str) -> None:
    run_ranks(check_sums, 4, backend=backend, timeout=300)
