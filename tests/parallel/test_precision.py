"""FP32 and BF16 (FP32 masters and sums) on four ranks: as near to FP64 as one process is, and copies stay equal.

BF16 keeps 8 bits and ten steps of these small models amplify their rounding, so the measure is what the same training
in BF16 on one process loses. Four ranks round four partial sums where one process rounds one (twice the error), and
these are the largest of a few random values (twice again): 4 times that is allowed. A sum that is forgotten costs far
more. That copies do not drift apart is exact.
"""

from __future__ import annotations

from dataclasses import asdict

import torch

from pyjpllm.distributed import World, make_mesh
from tests.mpi import run_ranks
from tests.parallel.reference import Reference
from tests.parallel.test_equality import Case, Differences, assert_copies_are_equal, references, train

MODEL = "2 kv heads, qk-norm, tied"
DTYPES = (torch.float32, torch.bfloat16)
FP32_LIMIT = 1e-5


def walk(
    world: World, reference: Reference, layouts: tuple[tuple[int, int], ...]
) -> dict[tuple[torch.dtype, Case], Differences]:
    results = {}
    for dp, tp in layouts:
        mesh = make_mesh(world, dp=dp, tp=tp)
        for dtype in DTYPES:
            case = Case(dp, tp, tp > 1, MODEL)
            flat, results[dtype, case] = train(case, mesh, reference, dtype=dtype)
            assert_copies_are_equal(flat, mesh)
            for group in flat.groups:
                assert group.master.dtype == group.grad.dtype == torch.float32
                assert group.model.dtype == dtype
                assert torch.equal(group.model, group.master.to(dtype))
    return results


def test_lower_precision_on_four_ranks() -> None:
    reference = references()[MODEL]
    alone = walk(World(rank=0, size=1, local_rank=0, local_size=1, backend="mpi4py"), reference, ((1, 1),))
    for rank in run_ranks(walk, 4, reference, ((2, 2), (1, 4))):
        for (dtype, case), found in rank.items():
            by_one = asdict(alone[dtype, Case(1, 1, False, MODEL)])
            for what, value in asdict(found).items():
                limit = FP32_LIMIT if dtype == torch.float32 else 4 * by_one[what]
                assert value < limit, (dtype, case, what, found, by_one)
