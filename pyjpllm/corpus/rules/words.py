"""What cuts a text into words, for the measures of words: scripts (native), or Sudachi's short units (mode A)."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.rules.sudachi import UnlikeSudachiError, native_words
from pyjpllm.errors import UserError

Segmenter = Callable[[str], NDArray[np.int32]]
"""Text to an array (words, 2) of first and last offset, in code points, ascending, white space left out."""

# SudachiPy refuses input of more than 49,149 bytes; datatrove cuts at this size too.
_MOST_BYTES = 40_000
_log = logging.getLogger(__name__)


def segmenter(kind: str) -> Segmenter | None:
    """None for `script`, which the measures do by themselves; else what makes the words.

    Raises UserError when the tagger's packages are missing.
    """
    if kind == "script":
        return None
    try:
        return native_words().cut
    except (UnlikeSudachiError, OSError) as error:
        _log.warning("Sudachi's words are cut by SudachiPy, which is slower: %s", error)
        return by_sudachipy()
    except ImportError as error:
        raise _missing(error) from None


def _missing(error: Exception) -> UserError:
    return UserError(
        f'words = "sudachi": SudachiPy or its dictionary cannot be loaded ({str(error).splitlines()[0]}); '
        "pip install 'pyjpllm[corpus]', or take words = \"script\""
    )


def by_sudachipy() -> Segmenter:
    """SudachiPy itself. Raises UserError when it is missing."""
    try:
        from sudachipy import Dictionary, SplitMode

        tokenizer = Dictionary().tokenizer(mode=SplitMode.A)
    except Exception as error:  # not there, or without the dictionary, for whose absence it has no class of its own
        raise _missing(error) from None

    def cut(text: str) -> NDArray[np.int32]:
        spans: list[tuple[int, int]] = []
        start = 0
        for piece in _pieces(text):
            for morpheme in tokenizer.tokenize(piece):
                surface = piece[morpheme.begin() : morpheme.end()]
                word = surface.strip()
                if word:  # white space is a morpheme too, and some characters are two, of which one is empty
                    first = start + morpheme.begin() + surface.index(word)
                    spans.append((first, first + len(word)))
            start += len(piece)
        return np.array(spans, dtype=np.int32).reshape(-1, 2)

    return cut


def _pieces(text: str) -> list[str]:
    """Pieces of at most so many bytes of UTF-8, as long as can be."""
    if len(text) * 4 <= _MOST_BYTES:
        return [text]
    pieces = []
    encoded = text.encode()
    start = 0
    while start < len(encoded):
        end = min(start + _MOST_BYTES, len(encoded))
        while end < len(encoded) and encoded[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(encoded[start:end].decode())
        start = end
    return pieces
