"""tests/mpi.py itself: results come back in order, failures come back with their traceback."""

from __future__ import annotations

import pytest

from tests.mpi import run_ranks


def fails_on_one(world, rank):
    if world.rank == rank:
        raise ValueError(f"boom on {rank}")
    return world.rank


def test_a_failing_rank_fails_the_test_with_its_traceback():
    with pytest.raises(AssertionError, match=r"on 2 ranks, mpi4py: exit code 1(?s:.*)rank 1:(?s:.*)boom on 1"):
        run_ranks(fails_on_one, 2, 1)


def test_one_rank_needs_no_mpirun():
    assert run_ranks(fails_on_one, 1, 5) == [0]
    with pytest.raises(AssertionError, match="boom on 0"):
        run_ranks(fails_on_one, 1, rank=0)


def test_only_functions_that_ranks_can_import():
    with pytest.raises(ValueError, match="top of a module"):
        run_ranks(lambda world: None, 2)
