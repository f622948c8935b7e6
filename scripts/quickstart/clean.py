"""Held-out text: whole documents by their name, and of these no line that the training text nearly has.

The rest of the cleaning is the pipeline in corpus.toml. What was dropped is counted.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

HELD_OUT_SHARE = 0.05
SHINGLE = 20  # characters of a shingle
SAMPLE = 4  # one shingle in SAMPLE is looked at
SEEN_LIMIT = 0.5  # a held-out line with more than this share of its shingles in the training text goes


@dataclass
class Document:
    """One document: a name that stays the same from run to run, where it came from, its text."""

    name: str
    source: str
    text: str


@dataclass
class Split:
    """Documents to train on and documents held out, and counts of what was dropped on the way."""

    train: list[Document] = field(default_factory=list)
    held_out: list[Document] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, why: str, count: int = 1) -> None:
        self.dropped[why] = self.dropped.get(why, 0) + count


def is_held_out(name: str) -> bool:
    """Decided by the document's name alone, so that it stays the same whatever else is in the corpus."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return digest < HELD_OUT_SHARE * 2**64


def in_order(documents: Iterable[Document]) -> list[Document]:
    """By name, those to train on first: of a line that stands in both parts, the pipeline keeps the training text's."""
    return sorted(documents, key=lambda document: (is_held_out(document.name), document.name))


def split(documents: Iterable[Document], *, minimum: int = 200) -> Split:
    """The parts of ``documents``, which come ``in_order``; held-out documents have ``minimum`` characters or more."""
    parts = Split()
    shingles: set[int] = set()
    for document in documents:
        if not is_held_out(document.name):
            shingles.update(hashed for line in document.text.split("\n") for hashed in _sampled(line))
            parts.train.append(document)
            continue
        lines = document.text.split("\n")
        kept = [line for line in lines if not _is_known(line, shingles)]
        if len(kept) < len(lines):
            parts.drop("held-out lines too like the training text", len(lines) - len(kept))
        text = "\n".join(kept)
        if len(text) < minimum:
            parts.drop("held-out documents left too short")
        else:
            parts.held_out.append(Document(document.name, document.source, text))
    return parts


def _sampled(line: str) -> list[int]:
    """Hashes of the sampled shingles of a line: the same ones wherever the characters stand."""
    hashes = (zlib.crc32(line[i : i + SHINGLE].encode()) for i in range(len(line) - SHINGLE + 1))
    return [value for value in hashes if value % SAMPLE == 0]


def _is_known(line: str, shingles: set[int]) -> bool:
    sampled = _sampled(line)
    return bool(sampled) and sum(value in shingles for value in sampled) > SEEN_LIMIT * len(sampled)
