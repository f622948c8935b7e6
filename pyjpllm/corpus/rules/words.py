"""What cuts a text into words, for the measures of words: scripts (native), or Sudachi's short units (mode A)."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.rules.sudachi import UnlikeSudachiError, kind_of, native_words
from pyjpllm.errors import UserError

Segmenter = Callable[[str], NDArray[np.int32]]
"""Text to an array (words, 3): first and last offset, in code points, ascending, white space left out; and the kind, as
`sudachi.kind_of` has it."""

# SudachiPy refuses input of more than 49,149 bytes; datatrove cuts at this size too.
_MOST_BYTES = 40_000
SCRIPT = 'take words = "script"'
"""What rules can do with that look at no part of speech."""
_log = logging.getLogger(__name__)


def segmenter(kind: str, instead: str = SCRIPT) -> Segmenter | None:
    """None for `script`, which the measures do by themselves; else what makes the words.

    ``instead``: what can be written where the packages are not. Raises UserError when they are missing.
    """
    if kind == "script":
        return None
    try:
        return native_words().cut
    except (UnlikeSudachiError, OSError) as error:
        _log.warning("Sudachi's words are cut by SudachiPy, which is slower: %s", error)
        return by_sudachipy(instead)
    except ImportError as error:
        raise _missing(error, instead) from None


def _missing(error: Exception, instead: str) -> UserError:
    return UserError(
        f'words = "sudachi": SudachiPy or its dictionary cannot be loaded ({str(error).splitlines()[0]}); '
        f"pip install 'pyjpllm[corpus]', or {instead}"
    )


def by_sudachipy(instead: str = SCRIPT) -> Segmenter:
    """SudachiPy itself. Raises UserError when it is missing."""
    try:
        from sudachipy import Dictionary, SplitMode

        tokenizer = Dictionary().tokenizer(mode=SplitMode.A)
    except Exception as error:  # not there, or without the dictionary, for whose absence it has no class of its own
        raise _missing(error, instead) from None

    def cut(text: str) -> NDArray[np.int32]:
        words: list[tuple[int, int, int]] = []
        start = 0
        for piece in _pieces(text):
            for morpheme in tokenizer.tokenize(piece):
                surface = piece[morpheme.begin() : morpheme.end()]
                word = surface.strip()
                if word:  # white space is a morpheme too, and some characters are two, of which one is empty
                    first = start + morpheme.begin() + surface.index(word)
                    words.append((first, first + len(word), kind_of(morpheme.part_of_speech())))
            start += len(piece)
        return np.array(words, dtype=np.int32).reshape(-1, 3)

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
