"""What the ranks of a corpus job say to each other. Rooms on this floor take it as an argument; the command line makes
the one over MPI (``pyjpllm.cli.exchange``). A plain process is a world of one: ``Alone``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class Exchange(Protocol):
    """Ranks that work on one corpus. Every method is collective: all ranks call it, in the same order."""

    @property
    def rank(self) -> int:
        """This process, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def all_to_all(self, parts: Sequence[NDArray[Any]], /) -> list[NDArray[Any]]:
        """Send ``parts[r]`` to rank r; returns what each rank sent here, in rank order.

        Arrays of one dimension or more and of any length, also none; the dtype and all dimensions but the first are the
        same everywhere. Nothing limits their bytes but memory. What a rank sends to itself may come back as it is.
        """
        ...

    def all_gather(self, value: T, /) -> list[T]:
        """The small object of each rank, in rank order, on every rank."""
        ...

    def broadcast(self, value: T, /) -> T:
        """The small object of rank 0, on every rank."""
        ...

    def barrier(self) -> None:
        """Return when every rank has come here."""
        ...


class Alone:
    """The exchange of a process without others."""

    rank = 0
    size = 1

    def all_to_all(self, parts: Sequence[NDArray[Any]], /) -> list[NDArray[Any]]:
        """The one part, as it is."""
        (part,) = parts
        return [np.asarray(part)]

    def all_gather(self, value: T, /) -> list[T]:
        """The one value."""
        return [value]

    def broadcast(self, value: T, /) -> T:
        """The value."""
        return value

    def barrier(self) -> None:
        """Nothing: nobody to wait for."""
