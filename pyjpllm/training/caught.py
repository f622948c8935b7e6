"""Failures to write as sentences, so that no rank is left waiting for one that failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Caught:
    """What went wrong, or None."""

    error: str | None = None


@contextlib.contextmanager
def caught() -> Iterator[Caught]:
    """Turn an exception into ``error``."""
    found = Caught()
    try:
        yield found
    except Exception as error:
        found.error = f"{type(error).__name__}: {error}"
