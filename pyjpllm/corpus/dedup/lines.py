"""A global step that cuts repeated lines or paragraphs out of documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from pyjpllm.corpus.dedup.documents import document_batches
from pyjpllm.corpus.dedup.occurrences import Places
from pyjpllm.corpus.dedup.routing import Numbering
from pyjpllm.corpus.exchange import Exchange
from pyjpllm.corpus.folding import Folding, fold
from pyjpllm.corpus.stage import Decision

Unit = Literal["line", "paragraph"]
"""``paragraph``: lines up to one that is blank, with the blank lines behind them."""

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_BITS = 26


def units(text: str, unit: Unit) -> list[tuple[int, int]]:
    """The ranges (from, to) of a text's lines or paragraphs, each with its line end; together they are the text."""
    lines = [match.span() for match in _LINE.finditer(text)]
    if unit == "line":
        return lines
    found: list[tuple[int, int]] = []
    ended = True
    for start, stop in lines:
        blank = not text[start:stop].strip()
        if found and (blank or not ended):
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
        ended = blank
    return found


@dataclass
class RepeatedUnitsStep:
    """Cuts lines or paragraphs that equal an earlier one once folded."""

    name: str
    unit: Unit = "paragraph"
    folding: Folding = "width"
    min_characters: int = 20
    """Shorter ones, counted once folded, stay."""
    min_copies: int = 2
    """Cut what stands in so many places at least."""
    keep: int = 1
    """How many of them stay, the first ones; 0: none."""

    def __call__(self, shards: Sequence[Path], exchange: Exchange, folder: Path, /) -> dict[int, list[Decision]]:
        """What is cut of this rank's documents (pyjpllm.corpus.stage.GlobalStep); reads the shards twice."""
        places = Places(folder / f"units-{exchange.rank:05d}", _BITS)
        counts, seen = [], 0
        for shard in range(exchange.rank, len(shards), exchange.size):
            before = seen
            for batch in document_batches(shards[shard]):
                keys: list[int] = []
                owners: list[int] = []
                within: list[int] = []
                for document in batch:
                    for index, key in self._keys(document.text):
                        keys.append(key)
                        owners.append(seen)
                        within.append(index)
                    seen += 1
                places.add(np.array(keys, np.uint64), np.array(owners, np.int64), np.array(within, np.int64))
            counts.append(seen - before)
        numbering = Numbering(counts, len(shards), exchange)
        repeated = places.repeated(numbering, exchange, self._judge)
        return {shard: self._decisions(shards[shard], found) for shard, found in repeated.items()}

    def _keys(self, text: str) -> Iterator[tuple[int, int]]:
        for index, (start, stop) in enumerate(units(text, self.unit)):
            folded = fold(text[start:stop].strip(), self.folding)
            if len(folded) >= max(1, self.min_characters):
                yield index, xxhash.xxh3_64_intdigest(folded.encode())

    def _judge(
        self, places: NDArray[np.uint64], starts: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        before = np.arange(len(places)) - np.repeat(starts, sizes)
        judged: NDArray[np.bool_] = (before >= self.keep) & np.repeat(sizes >= self.min_copies, sizes)
        return judged

    def _decisions(self, path: Path, found: NDArray[np.uint64]) -> list[Decision]:
        """``found`` [n, 2]: (document, unit), ascending."""
        cut: dict[int, set[int]] = {}
        for document, index in found.tolist():
            cut.setdefault(document, set()).add(index)
        decisions = []
        number = 0
        for batch in document_batches(path):
            for document in batch:
                if number in cut:
                    ranges = units(document.text, self.unit)
                    gone = [ranges[index] for index in sorted(cut[number])]
                    decisions.append(cutting(number, gone))
                number += 1
        return decisions


def cutting(number: int, ranges: Sequence[tuple[int, int]]) -> Decision:
    """The decision to cut ``ranges`` (ascending; they may touch or overlap) out of a document."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return Decision(number, None, tuple(joined))
