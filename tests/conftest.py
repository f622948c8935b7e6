"""Settings of all tests; tests that need a GPU say so where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.mpi import end_waiting_ranks

# No test judges by the clock: the machine may be shared.
settings.register_profile("pyjpllm", deadline=None)
settings.load_profile("pyjpllm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``cuda`` on a machine without a GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="torch sees no GPU here"))


@pytest.fixture(scope="session", autouse=True)
def _ranks_leave() -> Iterator[None]:
    """Ranks that wait for a next test end with the last one, before coverage is summed up."""
    yield
    end_waiting_ranks()
