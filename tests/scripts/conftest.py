"""The quickstart's modules as imports: they are scripts beside each other, not part of the package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[2]
QUICKSTART = REPO / "scripts" / "quickstart"


@pytest.fixture(scope="session")
def quickstart() -> dict[str, ModuleType]:
    """clean, extract, fetch, prepare and summary, by name."""
    sys.path.insert(0, str(QUICKSTART))
    try:
        return {name: importlib.import_module(name) for name in ("clean", "extract", "fetch", "prepare", "summary")}
    finally:
        sys.path.remove(str(QUICKSTART))
