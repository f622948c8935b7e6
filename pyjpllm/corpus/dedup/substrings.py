"""A global step that cuts passages that stand earlier in the corpus, wherever they begin and end.

Windows of characters are chosen by their content (winnowing; kernels/text/windows.h), so that both copies of a passage
choose the same ones, and their hashes meet. Against a suffix array: no index of the whole corpus, but some two places
of 16 bytes for every ``slack`` characters on disk, and any number of ranks; for that the ends of a passage are found
to within ``slack`` characters only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjpllm import _text
from pyjpllm.corpus.dedup.documents import document_batches
from pyjpllm.corpus.dedup.lines import cutting
from pyjpllm.corpus.dedup.occurrences import Places
from pyjpllm.corpus.dedup.routing import Numbering
from pyjpllm.corpus.exchange import Exchange
from pyjpllm.corpus.stage import Decision

_BITS = 32  # of a place: a character of a document


@dataclass
class RepeatedSubstringsStep:
    """Cuts every passage of ``length`` characters or more that stands earlier in the corpus (and does not overlap with
    its earlier copy), but for less than ``slack`` characters at each of its ends. Every character that is cut is one of
    ``window`` = length - slack + 1 characters that stand earlier."""

    name: str
    length: int = 100
    slack: int = 16

    def __post_init__(self) -> None:
        # Above half the length, windows that follow one another might not touch.
        if self.length < 2 or not 1 <= self.slack <= self.length // 2:
            raise ValueError(f"slack {self.slack}: from 1 to half of length ({self.length})")

    @property
    def window(self) -> int:
        """Characters of a window."""
        return self.length - self.slack + 1

    def __call__(self, shards: Sequence[Path], exchange: Exchange, folder: Path, /) -> dict[int, list[Decision]]:
        """What is cut of this rank's documents (pyjpllm.corpus.stage.GlobalStep)."""
        places = Places(folder / f"windows-{exchange.rank:05d}", _BITS)
        counts, seen = [], 0
        for shard in range(exchange.rank, len(shards), exchange.size):
            before = seen
            for batch in document_batches(shards[shard]):
                keys, within, ends = _text.windows([document.text for document in batch], self.window, self.slack)
                owners = np.repeat(np.arange(seen, seen + len(batch)), np.diff(ends, prepend=0))
                places.add(keys, owners, within)
                seen += len(batch)
            counts.append(seen - before)
        numbering = Numbering(counts, len(shards), exchange)
        repeated = places.repeated(numbering, exchange, self._judge)
        return {shard: self._decisions(found) for shard, found in repeated.items()}

    def _judge(
        self, places: NDArray[np.uint64], starts: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whatever does not overlap the first place with the same window: of `ーーーー...` one window stays."""
        judged: NDArray[np.bool_] = places >= np.repeat(places[starts], sizes) + np.uint64(self.window)
        return judged

    def _decisions(self, found: NDArray[np.uint64]) -> list[Decision]:
        """``found`` [n, 2]: (document, first character of the window), ascending."""
        documents, starts = found[:, 0], found[:, 1]
        if not len(found):
            return []
        # Windows that touch are one range: hundreds of thousands of them may follow one another.
        fresh = np.ones(len(found), bool)
        fresh[1:] = (documents[1:] != documents[:-1]) | (starts[1:] > starts[:-1] + np.uint64(self.window))
        first = np.flatnonzero(fresh)
        last = np.append(first[1:], len(found)) - 1
        cut: dict[int, list[tuple[int, int]]] = {}
        for document, start, end in zip(documents[first].tolist(), starts[first].tolist(), starts[last].tolist(),
                                        strict=True):  # fmt: skip
            cut.setdefault(document, []).append((start, end + self.window))
        return [cutting(document, ranges) for document, ranges in cut.items()]
