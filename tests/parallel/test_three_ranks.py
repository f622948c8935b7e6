"""The checks of `test_tensor`, `test_data` and `traffic` on three ranks, in one launch a backend."""

from __future__ import annotations

import pytest

from pyjpllm.distributed import World
from tests.mpi import run_ranks
from tests.parallel.test_data import check_data_parallel
from tests.parallel.test_tensor import check_layers
from tests.parallel.traffic import check_traffic


def check_all(world: World) -> None:
    check_layers(world)
    check_data_parallel(world)
    check_traffic(world)


@pytest.mark.parametrize("backend", ["mpi4py", "gloo"])
def test_on_three_ranks(backend: str) -> None:
    run_ranks(check_all, 3, backend=backend)
