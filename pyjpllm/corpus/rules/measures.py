"""The measures of a document by name: those of the native pass, of word lists, and of compression."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import pyarrow

from pyjpllm import _text
from pyjpllm.corpus.rules.words import Segmenter
from pyjpllm.errors import UserError, did_you_mean

# What a list measures: matches, and their characters against all characters or against the Japanese letters.
LIST_MEASURES = ("count", "fraction", "of_japanese")


PARTS_OF_SPEECH = ("noun_fraction",)
"""Measures of words of which it must be known what they are: a segmenter's, not those of the scripts."""


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def zlib_ratio(text: str) -> float:
    """Bytes of UTF-8 after deflate at level 9, against before; llm-jp's compression. 0 for no text."""
    data = text.encode()
    return _share(len(zlib.compress(data, 9)), len(data))


def lz4_ratio(text: str) -> float:
    """The same by LZ4, as a raw block; Uzushio's compression. 0 for no text."""
    data = text.encode()
    return len(pyarrow.compress(data, codec="lz4_raw", asbytes=True)) / len(data) if data else 0.0


COMPRESSION: dict[str, Callable[[str], float]] = {"zlib_ratio": zlib_ratio, "lz4_ratio": lz4_ratio}


WORDS = 2
"""The cost of cutting words."""


def check_measure(name: str, lists: Sequence[str]) -> None:
    """Raises UserError for a measure that is none, with the nearest one."""
    known = [*_text.measure_names(), *COMPRESSION, *(f"{each}.{what}" for each in lists for what in LIST_MEASURES)]
    if name not in known:
        raise UserError(f"no measure {name!r}{did_you_mean(name, known)}")


def cost_class(name: str) -> int:
    """What a measure costs: 0 one look at the characters, 1 n-grams or compression, ``WORDS`` words (the dearest)."""
    if "." in name:  # of a list, whatever it is called
        return 0
    if "word" in name or name in PARTS_OF_SPEECH:
        return WORDS
    return 1 if "gram" in name or name in COMPRESSION else 0


class Meter:
    """Measures texts by the measures of these names; only what they need is computed."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        lists: Mapping[str, Sequence[str]],
        segmenter: Segmenter | None = None,
        stop_words: Sequence[str] = (),
    ) -> None:
        """``lists``: the words of every list that a name begins with. ``segmenter``: None cuts by script.

        Raises UserError for a name that is no measure.
        """
        for name in names:
            check_measure(name, list(lists))
        self.names = tuple(dict.fromkeys(names))
        native = [name for name in self.names if name in _text.measure_names()]
        self._lists = [name for name in lists if any(each.startswith(f"{name}.") for each in self.names)]
        asked = list(native)
        for needed, what in (("characters", "fraction"), ("japanese_letters", "of_japanese")):
            if needed not in asked and any(name.endswith(f".{what}") for name in self.names):
                asked.append(needed)
        self._native = asked
        self._measures = _text.Measures(asked, list(stop_words)) if asked else None
        self._words = _text.WordLists([list(lists[name]) for name in self._lists]) if self._lists else None
        self._segmenter = segmenter if any(cost_class(name) == 2 for name in native) else None

    def __call__(self, text: str) -> dict[str, float]:
        """The values by name, in the order of the names."""
        values: dict[str, float] = {}
        if self._measures is not None:
            offsets = None if self._segmenter is None else self._segmenter(text)
            values.update(zip(self._native, self._measures.measure(text, offsets), strict=True))
        if self._words is not None:
            for name, (count, characters) in zip(self._lists, self._words.count(text), strict=True):
                values[f"{name}.count"] = count
                values[f"{name}.fraction"] = _share(characters, values.get("characters", 0))
                values[f"{name}.of_japanese"] = _share(characters, values.get("japanese_letters", 0))
        for name, ratio in COMPRESSION.items():
            if name in self.names:
                values[name] = ratio(text)
        return {name: float(values[name]) for name in self.names}
