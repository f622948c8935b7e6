"""What the trainer's tests share."""

from __future__ import annotations

import pytest

from tests.training.runs import Runs, make_all


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs on many layouts: two launches for all tests that look at them."""
    return make_all(tmp_path_factory.mktemp("runs"))
