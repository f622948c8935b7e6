"""Order, concurrency and Work objects."""

from __future__ import annotations

import pytest

from tests.distributed import _order as order
from tests.distributed.test_cores import WITH_A_THREAD
from tests.mpi import run_ranks


@pytest.mark.parametrize("env", [{}, WITH_A_THREAD], ids=["callers", "thread"])
def test_nothing_deadlocks_and_order_is_kept(env):
    counts = run_ranks(order.all_walks, 4, timeout=240, env=env)
    assert len(set(counts)) == 1  # all ranks count the same collectives
