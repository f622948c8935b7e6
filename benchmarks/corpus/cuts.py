"""Why HojiChar's rules of words decide otherwise than ours: where MeCab with UniDic and Sudachi have other words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SAID = ("another", "名詞", "名詞", "補助記号", "空白")
"""The kinds of our words (`WordKind` of kernels/text/words.h)."""


@dataclass(frozen=True)
class Word:
    """Characters [first, last) and the part of speech."""

    first: int
    last: int
    part: str


def ours(words: Sequence[tuple[int, int, int]]) -> list[Word]:
    """Our words, as a segmenter gives them."""
    return [Word(first, last, SAID[kind]) for first, last, kind in words]


def theirs(text: str, words: Sequence[tuple[str, str]]) -> list[Word]:
    """HojiChar's words, (surface, part of speech) each, at their places: MeCab leaves out the white space between."""
    found, place = [], 0
    for surface, part in words:
        first = text.index(surface, place)
        place = first + len(surface)
        found.append(Word(first, place, part))
    return found


def regions(mine: Sequence[Word], other: Sequence[Word]) -> Iterator[tuple[list[Word], list[Word]]]:
    """The shortest stretches of the text that both cut from the same character to the same character."""
    i = j = 0
    while i < len(mine) or j < len(other):
        a: list[Word] = []
        b: list[Word] = []
        end = min(words[k].first for words, k in ((mine, i), (other, j)) if k < len(words)) + 1
        while True:
            if i < len(mine) and mine[i].first < end:
                a.append(mine[i])
                end = max(end, mine[i].last)
                i += 1
            elif j < len(other) and other[j].first < end:
                b.append(other[j])
                end = max(end, other[j].last)
                j += 1
            else:
                break
        yield a, b


def _counts(words: Sequence[Word], blank: str) -> tuple[int, int]:
    """Nouns, and words that count."""
    return sum(word.part == "名詞" for word in words), sum(word.part not in ("補助記号", blank) for word in words)


def cause(rule: str, value: float, dropped: bool, text: str, words: Sequence[Any], answer: Any) -> tuple[str, str]:
    """The class of the cause and what it is: the difference that moves the measure most to where ours lies.

    ``value``, ``dropped``, ``words``: ours; ``answer``: what the peer's `words` says of the document.
    """
    moves: Counter[tuple[str, str]] = Counter()
    often: Counter[tuple[str, str]] = Counter()
    classes = {}
    for a, b in regions(ours(words), theirs(text, answer["words"])):
        if rule == "nouns":
            # Our blanks do not count, and theirs do.
            (mine, mine_of), (other, other_of) = _counts(a, "空白"), _counts(b, "")
            move = (mine - other) - value * (mine_of - other_of)
        else:
            move = float([(word.first, word.last) for word in a] != [(word.first, word.last) for word in b])
        if move == 0:
            continue
        key = (_said(text, b), _said(text, a))
        moves[key] += move if dropped or rule != "nouns" else -move
        often[key] += 1
        classes[key] = _class(a, b)
    if not moves:
        return "unexplained", "unexplained"
    key, _ = moves.most_common(1)[0]
    return classes[key], f"MeCab {key[0]}, Sudachi {key[1]} ({often[key]} times)"


def _class(a: Sequence[Word], b: Sequence[Word]) -> str:
    parts = {word.part for word in a}, {word.part for word in b}
    if parts[0] == {"補助記号"} and parts[1] <= {"記号", "補助記号"}:
        return "marks that are 記号 for UniDic, and 補助記号 for Sudachi"
    if [(word.first, word.last) for word in a] == [(word.first, word.last) for word in b]:
        return "another part of speech of the same word"
    return "another cut"


def _said(text: str, words: Sequence[Word]) -> str:
    """Words for a cell of a table."""
    shown = []
    for word in words[:6]:
        surface = text[word.first : word.last].replace("|", "\\|").replace("`", "ˋ").replace("\n", "⏎")
        shown.append(f"`{surface[:20]}` {word.part}")
    return " + ".join(shown) + (" + ..." if len(words) > 6 else "") or "nothing"
