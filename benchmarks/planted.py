"""A synthetic corpus with planted copies, and what is known of each: for the tests and for the study of recall.

Texts are drawn character by character, so that two of them share nothing by chance; what is alike was planted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

# Kana and 2,000 kanji: a gram of five characters hardly comes twice by chance.
_ALPHABET = np.array([chr(code) for code in [*range(0x3041, 0x3091), *range(0x30A1, 0x30F1), *range(0x4E00, 0x55D0)]])


class Planter:
    """Texts and altered copies of them from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def text(self, characters: int) -> str:
        """Text that shares nothing with any other."""
        return "".join(_ALPHABET[self.random.integers(len(_ALPHABET), size=characters)])

    def edited(self, text: str, share: float) -> str:
        """A copy with ``share`` of the characters, at random places, replaced, removed or followed by a new one."""
        characters = list(text)
        places = self.random.permutation(len(text))[: round(share * len(text))].tolist()
        kinds = self.random.integers(3, size=len(places)).tolist()
        for place, kind, new in zip(places, kinds, self.text(len(places)), strict=True):
            characters[place] = new if kind == 0 else "" if kind == 1 else characters[place] + new
        return "".join(characters)

    def shuffled(self, texts: Sequence[str]) -> tuple[list[str], list[int]]:
        """The texts in another order, and where each of them now is."""
        order = self.random.permutation(len(texts))
        places = np.empty(len(texts), np.int64)
        places[order] = np.arange(len(texts))
        return [texts[index] for index in order], places.tolist()


def grams(text: str, n: int) -> set[str]:
    """The set of character n-grams of ``text``; a shorter text is one gram, an empty one none."""
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))} if text else set()


def jaccard(a: str, b: str, n: int) -> float:
    """Similarity of the gram sets of two texts, not both empty."""
    first, second = grams(a, n), grams(b, n)
    return len(first & second) / len(first | second)


_HALF = {unicodedata.normalize("NFKC", form): form for c in range(0xFF66, 0xFF9E) for form in (chr(c), chr(c) + "ﾞ",
         chr(c) + "ﾟ") if len(unicodedata.normalize("NFKC", form)) == 1}  # fmt: skip
_OTHER_MARKS = str.maketrans({"、": ",", "。": ".", "?": "？！", ":": "――"})

VARIANTS: dict[str, Callable[[str, Planter], str]] = {
    "as it is": lambda text, _: text,
    "full width": lambda text, _: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "half-width kana": lambda text, _: "".join(_HALF.get(c, c) for c in text),
    "white space": lambda text, _: "\u3000\n".join(text[i : i + 7] for i in range(0, len(text), 7)),
    "no white space": lambda text, _: "".join(text.split()),
    "punctuation": lambda text, _: "「" + text.translate(_OTHER_MARKS) + "」",
    "case": lambda text, _: text.swapcase(),
    "10% edits": lambda text, planter: planter.edited(text, 0.1),
}
"""What may be done to an evaluation item that is still the same item."""
