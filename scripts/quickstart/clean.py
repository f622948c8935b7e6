"""From pages to training text: Japanese prose lines, no line twice, whole documents held out.

Text is NFKC-normalised here, so that the model and xz later see the same characters. What was dropped is counted.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

HELD_OUT_SHARE = 0.05
SHINGLE = 20  # characters of a shingle
SAMPLE = 4  # one shingle in SAMPLE is looked at
SEEN_LIMIT = 0.5  # a held-out line with more than this share of its shingles in the training text goes

_JAPANESE = re.compile("[\u3041-\u3096\u30a1-\u30fa\u30fc\u3005\u4e00-\u9fff]")
_HIRAGANA = re.compile("[\u3041-\u3096]")
_SPACES = re.compile(r"[^\S\n]+")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\ufeff]")


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


def normalize(text: str) -> str:
    """NFKC, no control characters, single spaces, no blank line."""
    lines = _CONTROLS.sub("", unicodedata.normalize("NFKC", text)).splitlines()
    return "\n".join(filter(None, (_SPACES.sub(" ", line).strip() for line in lines)))


def is_prose(line: str) -> bool:
    """A line of at least ten characters with hiragana in it and at least 30% Japanese letters."""
    if len(line) < 10 or not _HIRAGANA.search(line):
        return False
    return len(_JAPANESE.findall(line)) >= 0.3 * len(line.replace(" ", ""))


def is_held_out(name: str) -> bool:
    """Decided by the document's name alone, so that it stays the same whatever else is in the corpus."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return digest < HELD_OUT_SHARE * 2**64


def clean(documents: Iterable[Document], *, prose_only: bool, minimum: int = 200) -> Split:
    """Clean, deduplicate and split ``documents``.

    ``prose_only`` keeps only lines of Japanese prose (manuals are full of others); ``minimum`` is the fewest characters
    a document must have left. A line of ten characters or more is kept where it is seen first, training documents
    before held-out ones; lines that differ only in digits and spaces are the same line.
    """
    split = Split()
    seen_lines: set[bytes] = set()
    shingles: set[int] = set()
    ordered = sorted(documents, key=lambda document: (is_held_out(document.name), document.name))
    for document in ordered:
        held_out = is_held_out(document.name)
        kept = []
        for line in normalize(document.text).split("\n"):
            if prose_only and not is_prose(line):
                split.drop("lines that are no Japanese prose")
            elif _is_repeated(line, seen_lines):
                split.drop("repeated lines")
            elif held_out and _is_known(line, shingles):
                split.drop("held-out lines too like the training text")
            else:
                kept.append(line)
        text = "\n".join(kept)
        if len(text) < minimum:
            split.drop("documents left too short")
            continue
        if held_out:
            split.held_out.append(Document(document.name, document.source, text))
        else:
            shingles.update(hashed for line in kept for hashed in _sampled(line))
            split.train.append(Document(document.name, document.source, text))
    return split


def _is_repeated(line: str, seen: set[bytes]) -> bool:
    key = re.sub(r"[\d\s]+", "", line)
    if len(key) < 10:
        return False
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    if digest in seen:
        return True
    seen.add(digest)
    return False


def _sampled(line: str) -> list[int]:
    """Hashes of the sampled shingles of a line: the same ones wherever the characters stand."""
    hashes = (zlib.crc32(line[i : i + SHINGLE].encode()) for i in range(len(line) - SHINGLE + 1))
    return [value for value in hashes if value % SAMPLE == 0]


def _is_known(line: str, shingles: set[int]) -> bool:
    sampled = _sampled(line)
    return bool(sampled) and sum(value in shingles for value in sampled) > SEEN_LIMIT * len(sampled)
