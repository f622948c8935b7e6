"""Places in documents (lines, windows) with the same key, found over all ranks.

A place is one 64-bit number: the document's in the upper bits, where it is within the document in the lower. Memory of
a rank: 96 bytes for each of about 2^24 places of a round (those of one key come to one rank at once, however many), and
8 for each place that is repeated; all places are on disk, 16 bytes each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.dedup.keyfiles import ROUND_RECORDS, KeyFiles, groups, rounds, select, shared
from pyjpllm.corpus.dedup.routing import Numbering, owners_by_hash, pack, route
from pyjpllm.corpus.exchange import Exchange

Judge = Callable[[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
"""(places sorted within runs of one key, starts, sizes of the runs: at least 2) -> which places are repeated."""


class Places:
    """The places of this rank's documents, collected shard by shard; documents counted from 0 through its shards."""

    def __init__(self, folder: Path, bits: int) -> None:
        """``bits``: how many of a place are for where it is within its document."""
        self._files = KeyFiles(folder, 2)
        self._bits = bits

    def add(self, keys: NDArray[np.uint64], documents: NDArray[np.int64], within: NDArray[np.integer]) -> None:
        """Places ``within`` documents, all [n]; ``documents`` counts this rank's from 0."""
        if len(within) and int(within.max()) >> self._bits:
            raise ValueError(f"a document of more than 2^{self._bits} places")
        places = (documents.astype(np.uint64) << np.uint64(self._bits)) | within.astype(np.uint64)
        self._files.append(pack(keys, places))

    def repeated(
        self, numbering: Numbering, exchange: Exchange, judge: Judge, round_records: int = ROUND_RECORDS
    ) -> dict[int, NDArray[np.uint64]]:
        """Shard -> its repeated places [n, 2], (document of the shard, where within), ascending; collective."""
        numbers = numbering.mine()
        keys, places = self._files.column(0), self._files.column(1)
        bits = np.uint64(self._bits)
        low = (np.uint64(1) << bits) - np.uint64(1)
        if int(numbering.starts[-1]) >> (64 - self._bits):
            raise ValueError(f"more than 2^{64 - self._bits} documents")
        found = [np.empty(0, np.uint64)]
        turns = rounds(self._files.rows, exchange, round_records)
        for turn in range(turns):
            rows = select(keys, turn, turns)
            local = places[rows]
            sent = pack(keys[rows], (numbers[(local >> bits).astype(np.int64)] << bits) | (local & low))
            records = route(sent, owners_by_hash(sent[:, 0], exchange), exchange)
            records = shared(records)
            records = records[np.lexsort((records[:, 1], records[:, 0]))]
            starts, sizes = groups(records[:, 0])
            bad = records[judge(records[:, 1], starts, sizes), 1]
            found.append(route(bad, numbering.home(bad >> bits), exchange))
        every = np.sort(np.concatenate(found))
        shards = numbering.shard(every >> bits)
        ends = np.searchsorted(shards, np.array(numbering.shards, np.int64), side="right")
        begins = np.searchsorted(shards, np.array(numbering.shards, np.int64))
        return {
            shard: pack((every[begin:end] >> bits) - numbering.starts[shard], every[begin:end] & low)
            for shard, begin, end in zip(numbering.shards, begins.tolist(), ends.tolist(), strict=True)
            if begin < end
        }
