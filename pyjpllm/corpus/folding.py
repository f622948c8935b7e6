"""Texts made alike before they are compared: how much of a difference counts as none."""

from __future__ import annotations

import re
from typing import Literal

from pyjpllm.corpus.unicode import normalize

Folding = Literal["none", "width", "letters", "no-digits"]
"""``none``: every character counts. ``width``: NFKC (full and half width, kana with their marks), case, and runs of
white space as one space, none at the ends. ``letters``: that, and nothing but letters and digits is left.
``no-digits``: that, without the digits."""

_OTHERS = re.compile(r"[\W_]+")
_OTHERS_AND_DIGITS = re.compile(r"[\W_\d]+")


def fold(text: str, how: Folding) -> str:
    """``text`` as it is compared."""
    if how == "none":
        return text
    plain = normalize("NFKC", text).casefold()
    if how == "letters":
        return _OTHERS.sub("", plain)
    if how == "no-digits":
        return _OTHERS_AND_DIGITS.sub("", plain)
    return " ".join(plain.split())
