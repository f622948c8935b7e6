"""Settings of all tests; tests that need a GPU say so where there is none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

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
