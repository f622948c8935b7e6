"""Order, concurrency and Work objects."""

from __future__ import annotations

from tests.distributed import _order as order
from tests.mpi import run_ranks


def test_nothing_deadlocks_and_order_is_kept():
    counts = run_ranks(order.all_walks, 4, timeout=240)
    assert len(set(counts)) == 1  # all ranks count the same collectives
