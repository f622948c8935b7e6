"""Keys on disk: a file a column of 64-bit numbers, so that memory does not grow with the number of columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.exchange import Exchange

# Rows that wait in memory before they are written: 8 bytes a column each.
_WAITING = 1 << 16
# Records of a round on a rank. At most 96 bytes each while they are sent and sorted: 1.5 GiB.
ROUND_RECORDS = 1 << 24


class KeyFiles:
    """``columns`` files in ``folder``; rows are appended, then read back column by column."""

    def __init__(self, folder: Path, columns: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.columns = columns
        self._paths = [folder / f"column-{column:04d}.u64" for column in range(columns)]
        self._waiting: list[NDArray[np.uint64]] = []
        self._rows_waiting = 0
        self.rows = 0
        for path in self._paths:
            path.write_bytes(b"")

    def append(self, rows: NDArray[np.uint64]) -> None:
        """Add [n, columns]."""
        self._waiting.append(rows)
        self._rows_waiting += len(rows)
        self.rows += len(rows)
        if self._rows_waiting >= _WAITING:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._rows_waiting:
            return
        rows = np.concatenate(self._waiting)
        self._waiting, self._rows_waiting = [], 0
        for column, path in enumerate(self._paths):
            with open(path, "ab") as file:
                np.ascontiguousarray(rows[:, column]).tofile(file)

    def column(self, column: int) -> NDArray[np.uint64]:
        """[rows], mapped from the file."""
        self.flush()
        if self.rows == 0:
            return np.empty(0, np.uint64)
        return np.memmap(self._paths[column], np.uint64, "r", shape=(self.rows,))


def rounds(rows: int, exchange: Exchange, records: int = ROUND_RECORDS) -> int:
    """In how many rounds, each with an equal range of the keys, no rank has more than about ``records`` at a time."""
    return max(1, -(-max(exchange.all_gather(rows)) // records))


def select(keys: NDArray[np.uint64], turn: int, turns: int, chunk: int = 1 << 20) -> NDArray[np.int64]:
    """Rows whose keys are in range ``turn`` of ``turns``, by their lower 32 bits: the upper ones choose the rank."""
    found = [_within(keys[start : start + chunk], turn, turns) + start for start in range(0, len(keys), chunk)]
    return np.concatenate([np.empty(0, np.int64), *found])


def _within(keys: NDArray[np.uint64], turn: int, turns: int) -> NDArray[np.int64]:
    place = ((keys & np.uint64(0xFFFFFFFF)) * np.uint64(turns)) >> np.uint64(32)
    return np.flatnonzero(place == np.uint64(turn))


def groups(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(starts, sizes) of the runs of equal values in sorted ``keys``."""
    if len(keys) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return starts, np.diff(np.append(starts, len(keys)))


def shared(records: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those of ``records`` [n, columns] whose first column another one has too, by the first column.

    Most records are alone: they are gone before anything else is made of them.
    """
    order = np.argsort(records[:, 0])
    keys = records[order, 0]
    with_next = keys[1:] == keys[:-1]
    kept = np.zeros(len(keys), bool)
    kept[1:] |= with_next
    kept[:-1] |= with_next
    return records[order[kept]]


def batches(rows: int, size: int) -> Iterator[slice]:
    """Slices that cut ``rows`` into pieces of at most ``size``."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
