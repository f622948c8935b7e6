"""Candidates of MinHash-LSH compared before they are joined: the share of values in which their signatures agree.

That share estimates the Jaccard similarity s with a standard error of sqrt(s (1 - s) / values). The signatures lie on
disk at the documents' homes, 4 bytes a value; a pair's first signature goes to the home of its second.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.dedup.keyfiles import batches
from pyjpllm.corpus.dedup.routing import Numbering, pack, route
from pyjpllm.corpus.exchange import Exchange

# Bytes of the signatures that a rank sends at a time.
_SENT = 1 << 26


class Verifier:
    """Tells which pairs have signatures that agree in ``least`` of their values or more."""

    def __init__(self, path: Path, least: float) -> None:
        """``path``: where this rank's signatures go, a new file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        self._path = path
        self._least = least
        self._values = 0
        self._rows = 0

    def append(self, signatures: NDArray[np.uint32]) -> None:
        """The signatures [documents, values] of this rank's next documents."""
        with open(self._path, "ab") as file:
            signatures.tofile(file)
        self._values = signatures.shape[1]
        self._rows += len(signatures)

    def similar(
        self, pairs: NDArray[np.uint64], numbering: Numbering, numbers: NDArray[np.uint64], exchange: Exchange
    ) -> NDArray[np.uint64]:
        """Those of all ranks' ``pairs`` [n, 2] that are similar enough, somewhere; collective. ``numbers``: this
        rank's documents, in the order in which their signatures were appended."""
        values = max(exchange.all_gather(self._values))  # a rank without documents knows none
        size = max(1, _SENT // (4 * max(1, values)))
        turns = max(-(-count // size) for count in exchange.all_gather(len(pairs)))
        held = np.empty((0, values), np.uint32)
        if self._rows:
            held = np.memmap(self._path, np.uint32, "r", shape=(self._rows, values))
        kept = [np.empty((0, 2), np.uint64)]
        parts = [*batches(len(pairs), size)]
        for turn in range(turns):
            mine = pairs[parts[turn]] if turn < len(parts) else pairs[:0]
            asked = route(mine, numbering.home(mine[:, 0]), exchange)
            first = held[np.searchsorted(numbers, asked[:, 0])]
            homes = numbering.home(asked[:, 1])
            # Two arrays by the same way: the rows of the one are those of the other.
            first, asked = route(first, homes, exchange), route(asked, homes, exchange)
            second = held[np.searchsorted(numbers, asked[:, 1])]
            agree = (first == second).sum(axis=1)
            kept.append(asked[agree >= self._least * values])
        return np.concatenate(kept)


def bucket_pairs(
    numbers: NDArray[np.uint64], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Pairs to compare of buckets (``numbers`` ascending in each; where each starts; how many it has, 2 or more): every
    document but the first with the first and with the one before it. All pairs of a large bucket would be too many."""
    first = np.repeat(starts, sizes)
    places = np.arange(len(numbers))
    behind = places > first
    with_first = pack(numbers[behind], numbers[first[behind]])
    later = places > first + 1
    return np.concatenate([with_first, pack(numbers[later], numbers[places[later] - 1])])
