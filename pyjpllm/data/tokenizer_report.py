"""How tokenizers fit a text: characters a token by domain, what is written in bytes, what does not come back, which
pieces there are and which of them the text never needs.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.readers import read_file
from pyjpllm.data import spm_proto
from pyjpllm.data.tokenizer import SPACE, Tokenizer
from pyjpllm.errors import UserError, did_you_mean

EXAMPLES = 10
_AROUND = 20  # characters of an example on each side
_HELD = 1 << 18  # ids before they are counted
NO_DOMAIN = "(none)"


@dataclass
class Fit:
    """Sums over documents."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    """UTF-8."""
    tokens: int = 0
    """Without the ends of documents."""
    byte_tokens: int = 0
    """Tokens that are one byte each."""
    byte_characters: int = 0
    """Characters that are written so."""
    normalized: int = 0
    """Documents that the tokenizer's normalisation changes: that text does not come back, as it is meant."""
    failures: int = 0
    """Documents that do not come back as they are after it, which is a fault."""

    @property
    def characters_per_token(self) -> float:
        """The more, the shorter the text is to the model."""
        return self.characters / max(1, self.tokens)

    @property
    def byte_rate(self) -> float:
        """The share of the characters without a piece."""
        return self.byte_characters / max(1, self.characters)

    def add(self, other: Fit) -> None:
        """Add the sums of other documents."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class Example:
    """Where a document differs from what its ids stand for."""

    domain: str
    document: int
    """In its domain, counted from 0."""
    text: str
    """Around the first difference, after normalisation."""
    back: str


@dataclass
class Report:
    """One tokenizer on one text."""

    tokenizer: str
    kind: str
    vocab_size: int
    total: Fit = field(default_factory=Fit)
    domains: dict[str, Fit] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    """The first documents that do not come back."""
    scripts: dict[str, int] = field(default_factory=dict)
    """Pieces of the vocabulary by what they are made of (``script_of``), most first."""
    pieces: int = 0
    """Learned pieces: all but special ones, bytes and those that were given (a line end, runs of spaces)."""
    unused: list[str] = field(default_factory=list)
    """Learned pieces that no document has, in the order of their ids."""

    def as_json(self) -> dict[str, Any]:
        """As plain values, with the ratios."""
        values = asdict(self)
        for fit, shown in (
            (self.total, values["total"]),
            *zip(self.domains.values(), values["domains"].values(), strict=True),
        ):
            shown.update(characters_per_token=round(fit.characters_per_token, 4), byte_rate=round(fit.byte_rate, 8))
        return values


def report_tokenizers(
    tokenizers: Sequence[tuple[str, Tokenizer]], files: Iterable[Path], domain: str | None
) -> list[Report]:
    """A report of each (name, tokenizer) on all documents of ``files``.

    ``domain``: a field of the documents' meta; None: each file is a domain. Raises UserError for a file that cannot be
    read, and for a field that no document has.
    """
    judges = [_Judge(name, tokenizer) for name, tokenizer in tokenizers]
    for name, text in _documents(files, domain):
        for judge in judges:
            judge.see(name, text)
    return [judge.report() for judge in judges]


def _documents(files: Iterable[Path], domain: str | None) -> Iterator[tuple[str, str]]:
    known: dict[str, None] = {}
    for file in files:
        for document in read_file(file):
            value = str(file) if domain is None else document.meta.get(domain)
            known.update(dict.fromkeys(map(str, document.meta)))
            yield NO_DOMAIN if value is None else str(value), document.text
    if domain is not None and domain not in known:
        hint = did_you_mean(domain, known) if known else "; it is empty"
        raise UserError(f"--domain {domain}: no document has it in its meta{hint}")


class _Judge:
    """Counts for one tokenizer."""

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        info = tokenizer.info
        kinds = {spm_proto.UNIGRAM: "unigram", spm_proto.BPE: "bpe"}
        self._report = Report(name, kinds.get(info.model_type, "other"), tokenizer.vocab_size)
        self._report.scripts = dict(Counter(script_of(piece) for piece in info.pieces).most_common())
        self._tokenizer = tokenizer
        # -1 for what is no byte piece.
        self._bytes = np.array([int(p.text[1:-1], 16) if p.type == spm_proto.BYTE else -1 for p in info.pieces])
        self._used = np.zeros(tokenizer.vocab_size, np.int64)
        self._held: list[NDArray[np.int64]] = []
        self._waiting = 0

    def see(self, domain: str, text: str) -> None:
        """Count one document."""
        encoded = self._tokenizer.encode(text)
        ids = np.array(encoded, np.int64)
        expected = self._tokenizer.normalize(text)
        if self._tokenizer.info.add_dummy_prefix:  # put before every text, and taken away when it is decoded
            expected = expected.removeprefix(" ")
        back = self._tokenizer.decode(encoded)
        values = self._bytes[ids]
        fit = Fit(
            documents=1,
            characters=len(text),
            bytes=len(text.encode()),
            tokens=len(ids),
            byte_tokens=int((values >= 0).sum()),
            byte_characters=int(((values >= 0) & ((values & 0xC0) != 0x80)).sum()),  # their first bytes
            normalized=int(expected != text),
            failures=int(back != expected),
        )
        sums = self._report.domains.setdefault(domain, Fit())
        if fit.failures and len(self._report.examples) < EXAMPLES:
            self._report.examples.append(_example(domain, sums.documents, expected, back))
        sums.add(fit)
        self._held.append(ids)
        self._waiting += len(ids)
        if self._waiting >= _HELD:
            self._count()

    def _count(self) -> None:
        if self._held:
            self._used += np.bincount(np.concatenate(self._held), minlength=len(self._used))
        self._held, self._waiting = [], 0

    def report(self) -> Report:
        """All that was counted."""
        self._count()
        report = self._report
        for fit in report.domains.values():
            report.total.add(fit)
        report.domains = dict(sorted(report.domains.items(), key=lambda entry: (-entry[1].characters, entry[0])))
        learned = [n for n, piece in enumerate(self._tokenizer.info.pieces) if _is_learned(piece)]
        report.pieces = len(learned)
        report.unused = [self._tokenizer.piece(n) for n in learned if not self._used[n]]
        return report


def _example(domain: str, document: int, expected: str, back: str) -> Example:
    pairs = zip(expected, back, strict=False)
    at = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(expected), len(back)))
    start = max(0, at - _AROUND)
    return Example(domain, document, expected[start : at + _AROUND], back[start : at + _AROUND])


def _is_learned(piece: spm_proto.Piece) -> bool:
    # A model with exact scores has its given pieces as ordinary ones of score 0.
    given = piece.text == "\n" or (len(piece.text) > 1 and set(piece.text) == {SPACE} and piece.score == 0.0)
    return piece.type == spm_proto.NORMAL and not given


_JAPANESE = {"hiragana", "katakana", "kanji"}


def script_of(piece: spm_proto.Piece) -> str:
    """What a piece is made of: `special`, `bytes`, `white space`, `signs`, `digits`, `hiragana`, `katakana`, `kanji`,
    `mixed Japanese`, `latin`, `other letters` or `mixed` (letters of several scripts, or letters with digits). Signs
    beside letters or digits do not count, nor does the space before a word."""
    if piece.type == spm_proto.BYTE:
        return "bytes"
    if piece.type in (spm_proto.CONTROL, spm_proto.UNKNOWN, spm_proto.UNUSED):
        return "special"
    found = {script for character in piece.text.replace(SPACE, " ") if (script := _script(character))}
    letters = found - {"signs", "white space"}
    if not letters:
        return "signs" if "signs" in found else "white space"
    if len(letters) == 1:
        return letters.pop()
    return "mixed Japanese" if letters <= _JAPANESE else "mixed"


def _script(character: str) -> str | None:
    """None: goes with any script."""
    if character in "ーｰ々〆゛゜":
        return {"ー": "katakana", "ｰ": "katakana", "々": "kanji", "〆": "kanji"}.get(character)
    if character.isspace():
        return "white space"
    category = unicodedata.category(character)
    if category[0] == "N":
        return "digits"
    if category[0] != "L":
        return None if category[0] == "M" else "signs"
    name = unicodedata.name(character, "")
    for start, script in (("HIRAGANA", "hiragana"), ("KATAKANA", "katakana"), ("HALFWIDTH KATAKANA", "katakana"),
                          ("CJK", "kanji"), ("LATIN", "latin"), ("FULLWIDTH LATIN", "latin")):  # fmt: skip
        if name.startswith(start):
            return script
    return "other letters"
