"""Who has which document, and the way of records between ranks.

Documents are numbered through all shards, from 1: shard by shard, in the order within each. Rank r reads the shards r,
r + size, ..., and is the home of their documents. Numbers do not depend on the ranks; so neither does what is decided
by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.exchange import Exchange

ELSEWHERE = np.uint64(0)
"""The number that stands for every document of a corpus compared against."""


class Numbering:
    """The numbers of all documents of all shards. Making one is collective."""

    def __init__(self, mine: Sequence[int], shards: int, exchange: Exchange) -> None:
        """``mine``: how many documents each of this rank's shards has."""
        counts = np.zeros(shards, np.uint64)
        for rank, theirs in enumerate(exchange.all_gather(list(mine))):
            counts[rank :: exchange.size] = theirs
        self.starts: NDArray[np.uint64] = np.concatenate([np.ones(1, np.uint64), np.cumsum(counts) + np.uint64(1)])
        """[shards + 1]: the number of each shard's first document; the last is one past the end."""
        self._size = exchange.size
        self.shards = range(exchange.rank, shards, exchange.size)
        """This rank's."""

    def home(self, numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The rank that reads each document."""
        return self.shard(numbers) % self._size

    def shard(self, numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The shard of each document."""
        return np.searchsorted(self.starts, numbers, side="right") - 1

    def mine(self) -> NDArray[np.uint64]:
        """The numbers of this rank's documents, in the order in which it reads them: ascending."""
        return np.concatenate([np.empty(0, np.uint64), *(self._of(shard) for shard in self.shards)])

    def _of(self, shard: int) -> NDArray[np.uint64]:
        return np.arange(self.starts[shard], self.starts[shard + 1], dtype=np.uint64)


def route(records: NDArray[Any], owners: NDArray[np.int64], exchange: Exchange) -> NDArray[Any]:
    """Send each of ``records`` [n, ...] to the rank in ``owners`` [n]; returns what came here, by rank of origin."""
    if exchange.size == 1:
        return records
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(1, exchange.size))
    return np.concatenate(exchange.all_to_all(np.split(records[order], ends)))


def owners_by_hash(keys: NDArray[np.uint64], exchange: Exchange) -> NDArray[np.int64]:
    """The rank that owns the hash range of each key: equal ranges of the upper 32 bits."""
    return ((keys >> np.uint64(32)) * np.uint64(exchange.size) >> np.uint64(32)).astype(np.int64)


def pack(*columns: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[n, columns] of columns [n]: records to route."""
    return np.stack(columns, axis=1)
