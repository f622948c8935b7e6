"""Settings of all tests; tests that need a GPU say so where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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


_folder: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def _ranks_leave_a_folder(request: pytest.FixtureRequest) -> None:
    """Ranks that wait for a next test do so within a folder: torch names a group by how many its rank has made, and
    ranks on which a test has made groups of their own can no longer make one together."""
    if _folder != [request.path.parent]:
        _folder[:] = [request.path.parent]
        end_waiting_ranks()


@pytest.fixture(scope="session", autouse=True)
def _ranks_leave() -> Iterator[None]:
    """They end with the last test, before coverage is summed up."""
    yield
    end_waiting_ranks()
