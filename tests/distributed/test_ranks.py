"""tests/mpi.py itself: results come back in order, failures come back with their traceback."""

from __future__ import annotations

import os
import time

import pytest

from tests.mpi import run_ranks


def fails_on_one(world, rank):
    if world.rank == rank:
        raise ValueError(f"boom on {rank}")
    return world.rank


def test_a_failing_rank_fails_the_test_with_its_traceback():
    with pytest.raises(AssertionError, match=r"on 2 ranks, mpi4py: rank 1:(?s:.*)boom on 1(?s:.*)exit code 1"):
        run_ranks(fails_on_one, 2, 1)


def test_one_rank_needs_no_mpirun():
    assert run_ranks(fails_on_one, 1, 5) == [0]
    with pytest.raises(AssertionError, match="boom on 0"):
        run_ranks(fails_on_one, 1, rank=0)


def test_only_functions_that_ranks_can_import():
    with pytest.raises(ValueError, match="top of a module"):
        run_ranks(lambda world: None, 2)


def process(world):
    return os.getpid()


def test_ranks_stay_for_the_next_call():
    first = run_ranks(process, 2)
    assert run_ranks(process, 2) == first
    assert not set(run_ranks(process, 2, fresh=True)) & set(first)
    with pytest.raises(AssertionError, match="boom"):
        run_ranks(fails_on_one, 2, 0)
    assert not set(run_ranks(process, 2)) & set(first)


def hangs(world):
    time.sleep(world.rank * 60)


def leaves(world):
    os._exit(7 * world.rank)


def test_ranks_that_hang_or_leave_fail_the_test():
    with pytest.raises(AssertionError, match="not done after 1 s"):
        run_ranks(hangs, 2, timeout=1)
    with pytest.raises(AssertionError, match=r"no rank left a traceback(?s:.*)exit code"):
        run_ranks(leaves, 2)
