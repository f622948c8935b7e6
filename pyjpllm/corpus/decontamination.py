"""Evaluation items in documents: found in any width, case and punctuation, and through edits.

Texts are folded to letters and digits (NFKC, case; pyjpllm.corpus.folding). Two nets:

grams    the share of an item's distinct 6-grams that stand in a stretch of the document twice as long as the item.
         From a tenth on the item is compared with the stretch, edit by edit (pyjpllm.corpus.edit_distance): sentences
         of one kind share as much. An edit of one character breaks at most 6 grams, so an item of L >= 30 characters
         with L / 10 edits keeps 28%, wherever the edits are; the rest is for edits of marks that folding leaves out.
         Grams that many items share tell nothing of any of them and do not count.
MinHash  the Jaccard similarity of the 3-grams of the whole document and the item, for copies that are edited more:
         pairs that share a band are compared exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pyjpllm import _text
from pyjpllm.config.schema import Fraction, Positive
from pyjpllm.corpus.dedup.minhash import MinHasher
from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.edit_distance import least_edits
from pyjpllm.corpus.folding import fold
from pyjpllm.corpus.inputs import expand_inputs, suffix_of
from pyjpllm.corpus.readers import read_documents
from pyjpllm.corpus.stage import Limits, Stage, Verdict
from pyjpllm.corpus.stage_config import StageConfig, checksum_of
from pyjpllm.errors import UserError

GRAM = 6
_CANDIDATE = 0.1  # of an item's grams
_NEAR_GRAM = 3
# Pairs of similarity 0.4 share one of these bands with probability 0.88, of 0.5 with 0.986.
_NEAR = MinHasher(_NEAR_GRAM, bands=32, rows=3)


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an evaluation set."""

    task: str
    number: int
    """Its place in the task, from 0."""
    folded: str


@dataclass(frozen=True, slots=True)
class Match:
    """An item found in a document."""

    item: Item
    by: Literal["grams", "edits", "minhash"]
    share: float
    """Of the item's grams that are found, of its characters that no edit touches, or the similarity; 0 to 1."""


def read_items(paths: Sequence[str]) -> list[Item]:
    """The items of files; a task is a file, by its name without ending, and as many folders before it as tell it from
    the others. Raises UserError as ``read_documents`` does."""
    items = []
    files = expand_inputs(paths)
    for task, path in zip(_tasks(files), files, strict=True):
        for number, document in enumerate(read_documents(path)):
            items.append(Item(task, number, fold(document.text, "letters")))
    return items


def _tasks(files: Sequence[Path]) -> list[str]:
    parts = [[*path.parts[:-1], path.name[: -len(suffix_of(path) or "")]] for path in files]
    taken = [1] * len(files)
    while True:
        names = ["/".join(each[-count:]) for each, count in zip(parts, taken, strict=True)]
        counts = Counter(names)
        longer = [n for n, name in enumerate(names) if counts[name] > 1 and taken[n] < len(parts[n])]
        if not longer:
            return names
        for n in longer:
            taken[n] += 1


class Detector:
    """Finds the items of evaluation sets in documents."""

    def __init__(
        self,
        items: Sequence[Item],
        share: float,
        similarity: float,
        min_characters: int,
        max_items: int,
        edits: float = 0.2,
    ) -> None:
        """``share``, ``similarity``: from which on the nets hold something; ``edits``: of an item's characters, up to
        which a stretch that has fewer of its grams (a tenth) is one with it. Items with fewer than ``min_characters``
        folded characters cannot be told and are left out (``too_short``); grams in more than ``max_items`` items do not
        count, and items that have none but those are ``too_common``."""
        self.too_short = [item for item in items if len(item.folded) < max(min_characters, GRAM)]
        self._items = [item for item in items if len(item.folded) >= max(min_characters, GRAM)]
        self.too_common: list[Item] = []
        self._share = share
        self._edits = edits
        self._similarity = similarity
        self._index_grams(max_items)
        self._index_near()

    def _index_grams(self, max_items: int) -> None:
        hashes, ends = _text.gram_hashes([item.folded for item in self._items], GRAM)
        owners = np.repeat(np.arange(len(self._items)), np.diff(ends, prepend=0))
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        fresh = np.ones(len(hashes), bool)
        fresh[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        hashes, owners = hashes[fresh], owners[fresh]
        self._hashes, starts, counts = np.unique(hashes, return_index=True, return_counts=True)
        telling = counts <= max_items
        self._hashes, self._starts, self._counts = self._hashes[telling], starts[telling], counts[telling]
        self._owners = owners
        own = np.concatenate([np.empty(0, np.int64), *(owners[s : s + c] for s, c in self._runs())])
        self._sizes = np.bincount(own, minlength=len(self._items))
        self.too_common = [item for item, size in zip(self._items, self._sizes, strict=True) if size == 0]
        # Most grams of a document are of no item: one look into this table of bits tells nearly all of them.
        self._bits = max(16, len(self._hashes).bit_length() + 4)
        self._filter = np.zeros(1 << self._bits, bool)
        self._filter[self._hashes >> np.uint64(64 - self._bits)] = True

    def _runs(self) -> list[tuple[int, int]]:
        return list(zip(self._starts.tolist(), self._counts.tolist(), strict=True))

    def _index_near(self) -> None:
        self._bands: list[dict[int, list[int]]] = [{} for _ in range(_NEAR.bands)]
        for number, keys in enumerate(_keys([item.folded for item in self._items])):
            for band, key in enumerate(keys):
                self._bands[band].setdefault(key, []).append(number)

    def find(self, texts: Sequence[str]) -> list[list[Match]]:
        """The items in each text, the surest first."""
        folded = [fold(text, "letters") for text in texts]
        hashes, ends = _text.gram_hashes(folded, GRAM)
        parts = np.split(hashes, ends[:-1])[: len(texts)]
        found = [self._by_grams(text, part) for text, part in zip(folded, parts, strict=True)]
        for text, keys, matches in zip(folded, _keys(folded), found, strict=True):
            known = {match.item for match in matches}
            matches += [match for match in self._by_similarity(text, keys) if match.item not in known]
            matches.sort(key=lambda match: (-match.share, match.item.task, match.item.number))
        return found

    def _by_grams(self, text: str, hashes: NDArray[np.uint64]) -> list[Match]:
        """The items that the grams of one folded text, in their order, are of."""
        places = np.flatnonzero(self._filter[hashes >> np.uint64(64 - self._bits)])
        if len(places) == 0 or len(self._hashes) == 0:
            return []
        at = np.minimum(np.searchsorted(self._hashes, hashes[places]), len(self._hashes) - 1)
        hit = self._hashes[at] == hashes[places]
        places, at = places[hit], at[hit]
        counts = self._counts[at]
        rows = np.repeat(self._starts[at] - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))
        owners, grams, places = self._owners[rows], np.repeat(at, counts), np.repeat(places, counts)
        matches = []
        tally = np.bincount(owners, minlength=len(self._items))
        least = min(self._share, _CANDIDATE)
        for number in np.flatnonzero(tally >= np.maximum(1, least * self._sizes)).tolist():
            if self._sizes[number] == 0:
                continue
            own = owners == number
            match = self._in_stretches(number, text, places[own].tolist(), grams[own].tolist())
            if match is not None:
                matches.append(match)
        return matches

    def _in_stretches(self, number: int, text: str, places: list[int], grams: list[int]) -> Match | None:
        """The item, if the grams of it at ``places`` of the text show that it is there."""
        item, size = self._items[number], int(self._sizes[number])
        length = len(item.folded)
        best, stretches = _stretches(places, grams, 2 * length, min(self._share, _CANDIDATE) * size)
        if best >= self._share * size:
            return Match(item, "grams", best / size)
        fewest = min(
            (least_edits(item.folded, text[max(0, start - length) : stop + length]) for start, stop in stretches),
            default=length,
        )
        return Match(item, "edits", 1 - fewest / length) if fewest <= self._edits * length else None

    def _by_similarity(self, text: str, keys: Sequence[int]) -> list[Match]:
        candidates = {number for band, key in enumerate(keys) for number in self._bands[band].get(key, ())}
        own = _gram_set(text) if candidates else set()
        matches = []
        for number in sorted(candidates):
            # Sets of sizes too different cannot be so similar; a document is mostly much longer than an item.
            if len(self._items[number].folded) < self._similarity * len(own):
                continue
            other = _gram_set(self._items[number].folded)
            similarity = len(own & other) / len(own | other)
            if similarity >= self._similarity:
                matches.append(Match(self._items[number], "minhash", similarity))
        return matches


def _keys(folded: list[str]) -> list[list[int]]:
    keys: list[list[int]] = _NEAR.keys(_NEAR.signatures(folded)).tolist()
    return keys


def _gram_set(text: str) -> set[str]:
    return {text[i : i + _NEAR_GRAM] for i in range(max(1, len(text) - _NEAR_GRAM + 1))}


def _stretches(places: list[int], grams: list[int], width: int, least: float) -> tuple[int, list[tuple[int, int]]]:
    """The most different grams within any ``width`` places (ascending), and the stretches, joined where they overlap,
    that have ``least`` or more."""
    inside: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    best = left = 0
    for right, gram in enumerate(grams):
        inside[gram] = inside.get(gram, 0) + 1
        while places[right] - places[left] >= width:
            inside[grams[left]] -= 1
            if inside[grams[left]] == 0:
                del inside[grams[left]]
            left += 1
        best = max(best, len(inside))
        if len(inside) >= least:
            start = places[left]
            if found and start <= found[-1][1]:
                start = found.pop()[0]
            found.append((start, places[right] + GRAM))
    return best, found


class DecontaminationConfig(StageConfig):
    """Finds the items of evaluation sets in documents, whatever their width, case, punctuation and some edits."""

    kind: Literal["decontaminate"]
    paths: Annotated[list[str], Field(min_length=1)]
    """Evaluation sets, as `input.paths`: JSON Lines, Parquet or text. A file is a task, a document of it an item."""
    mode: Literal["drop", "mark"] = "drop"
    """`drop` drops documents with an item (`contaminated-TASK`, the surest one's); `mark` only writes the items into
    the meta, as both do: `contamination`, a list of `task`, `item`, `by` and `share`."""
    share: Fraction = 0.5
    """An item is found where this share of its 6-grams stands in a stretch of twice its length ..."""
    edits: Fraction = 0.2
    """... or a tenth of them, and no more than this share of its characters differs from what stands there."""
    similarity: Fraction = 0.4
    """A document is a copy of an item from this Jaccard similarity of 3-grams on."""
    min_characters: Positive = 20
    """Items of fewer letters and digits cannot be told from chance and are not looked for."""
    max_items: Positive = 10
    """6-grams that stand in more items than this (instructions that all begin with) do not count."""

    def files_read(self) -> Mapping[str, str]:
        """The evaluation sets."""
        return {str(path): checksum_of(path) for path in expand_inputs(self.paths)}

    def build(self) -> Stage:
        """The stage. Raises UserError for sets that cannot be read, or hold nothing that can be looked for."""
        return Decontamination(self)


class Decontamination:
    """The stage; ``report`` says what was looked for."""

    def __init__(self, config: DecontaminationConfig) -> None:
        self.name = config.name or config.kind
        self._mode = config.mode
        items = read_items(config.paths)
        self.detector = Detector(
            items, config.share, config.similarity, config.min_characters, config.max_items, config.edits
        )
        if len(self.detector.too_short) == len(items):
            where = ", ".join(config.paths)
            raise UserError(f"stage.paths: {where}: none of {len(items)} items has {config.min_characters} letters")
        self.limits: dict[str, Limits] = {"share": (None, min(config.share, 1 - config.edits, config.similarity))}

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        """One verdict a document. ``share``: of the surest item; 0 without any."""
        found = self.detector.find([document.text for document in documents])
        return [self._judge(document, matches) for document, matches in zip(documents, found, strict=True)]

    def _judge(self, document: Document, matches: list[Match]) -> Verdict:
        if not matches:
            return Verdict(document, None, {"share": 0.0, "items": 0.0})
        marked = replace(document, meta={**document.meta, "contamination": [_entry(match) for match in matches]})
        reason = f"contaminated-{matches[0].item.task}" if self._mode == "drop" else None
        return Verdict(marked, reason, {"share": matches[0].share, "items": float(len(matches))})


def _entry(match: Match) -> dict[str, Any]:
    return {"task": match.item.task, "item": match.item.number, "by": match.by, "share": round(match.share, 4)}


def by_task(found: Sequence[tuple[str, Sequence[Match]]]) -> dict[str, dict[int, list[str]]]:
    """task -> item -> the documents that hold it, from (a document's name, its matches)."""
    report: dict[str, dict[int, list[str]]] = {}
    for name, matches in found:
        for match in matches:
            report.setdefault(match.item.task, {}).setdefault(match.item.number, []).append(name)
    return report
