"""Sudachi's short units by the native lattice, from the files of the packages sudachipy and sudachidict_core.

SudachiPy (Apache-2.0) says what the words are; kernels/text/sudachi_*.cpp finds the same ones in less time, since it
makes no object of a word and looks at nothing but where words end and of what kind they are. Tests compare the two.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjpllm import _text

# The categories of char.def, each a bit, in the order of sudachi.rs's category_type.rs; 15 and the last two follow it.
_CATEGORIES = (
    *("DEFAULT", "SPACE", "KANJI", "SYMBOL", "NUMERIC", "ALPHA", "HIRAGANA", "KATAKANA", "KANJINUMERIC", "GREEK"),
    *("CYRILLIC", "USER1", "USER2", "USER3", "USER4"),
)
_BITS = {name: 1 << i for i, name in enumerate(_CATEGORIES)}
_BITS |= {"ALL": (1 << len(_CATEGORIES)) - 1, "NOOOVBOW": 1 << 30, "NOOOVEOW": 1 << 31}
# Where characters lie that NFKC or small letters change; kanji and Hangul between them stay as they are.
_CHANGING = ((0, 0x3400), (0xA000, 0xAC00), (0xF900, 0x20000), (0x2F800, 0x2FA20))
# Kinds of words by the first field of their part of speech: WordKind of kernels/text/words.h, where 0 is every other.
NOUN, NUMERAL = 1, 2
_KINDS = {"名詞": NOUN, "補助記号": 3, "空白": 4}
_NUMERAL = ("名詞", "数詞", "*", "*", "*", "*")
_PLUGINS = {
    "inputTextPlugin": ["DefaultInputTextPlugin", "ProlongedSoundMarkPlugin", "IgnoreYomiganaPlugin"],
    "oovProviderPlugin": ["MeCabOovPlugin", "SimpleOovPlugin"],
    "pathRewritePlugin": ["JoinNumericPlugin", "JoinKatakanaOovPlugin"],
}


class UnlikeSudachiError(Exception):
    """The packages' files hold what the native lattice does not do; the message says what."""


def native_words() -> _text.SudachiWords:
    """What cuts text into short units. Raises UnlikeSudachiError, and ImportError when a package is missing."""
    resources, dictionary = _folder("sudachipy"), _folder("sudachidict_core") / "system.dic"
    settings = json.loads((resources / "sudachi.json").read_text(encoding="utf-8"))
    for kind, names in _PLUGINS.items():
        found = [str(each.get("class")).rpartition(".")[2] for each in settings.get(kind, [])]
        if found != names:
            raise UnlikeSudachiError(f"sudachi.json has {kind} {found}, not {names}")
    if settings.get("userDict") or settings.get("connectionCostPlugin"):
        raise UnlikeSudachiError("sudachi.json names a user dictionary or changes the costs of connections")
    default, long_vowels, readings = settings["inputTextPlugin"]
    single, katakana = settings["oovProviderPlugin"][1], settings["pathRewritePlugin"][1]
    marks, mark = long_vowels["prolongedSoundMarks"], long_vowels["replacementSymbol"]
    if mark not in marks:
        raise UnlikeSudachiError(f"sudachi.json: {mark} replaces long vowel marks and is none of them")
    definitions = _lines(resources / "char.def")
    try:
        return _text.SudachiWords(
            np.memmap(dictionary, dtype=np.uint8, mode="r"),
            categories=_categories(definitions),
            changes=_changes(_lines(resources / default.get("rewriteDef", "rewrite.def"))),
            long_vowels=mark + "".join(each for each in marks if each != mark),
            left_brackets="".join(readings["leftBrackets"]),
            right_brackets="".join(readings["rightBrackets"]),
            longest_reading=readings["maxYomiganaLength"],
            unknown=_unknown(definitions, _lines(resources / "unk.def")),
            single=(single["leftId"], single["rightId"], single["cost"], kind_of(single["oovPOS"])),
            shortest_katakana=katakana["minLength"],
            joined_katakana=kind_of(katakana["oovPOS"]),
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise UnlikeSudachiError(str(error)) from None


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no package {package}")
    return Path(spec.submodule_search_locations[0]) / "resources"


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _categories(definitions: list[str]) -> NDArray[np.uint32]:
    """The categories of every code point: `0x3041..0x309F HIRAGANA # ...`."""
    table = np.zeros(0x110000, dtype=np.uint32)
    for line in definitions:
        if line.startswith("0x"):
            codes, *names = line.partition("#")[0].split()
            first, _, last = codes.partition("..")
            bits = 0
            for name in names:
                bits |= _BITS[name]
            table[int(first, 16) : int(last or first, 16) + 1] |= np.uint32(bits)
    table[table == 0] = _BITS["DEFAULT"]
    return table


def _unknown(definitions: list[str], costs: list[str]) -> list[tuple[int, bool, bool, int, list[Any]]]:
    """Words that no dictionary has, by category: `KATAKANA 1 1 2` of char.def with their lines of unk.def."""
    kinds: dict[str, list[tuple[int, int, int, int]]] = {}
    for line in costs:
        name, left, right, cost, *part = line.split(",")
        kinds.setdefault(name, []).append((int(left), int(right), int(cost), kind_of(part)))
    unknown = []
    for line in definitions:
        if not line.startswith("0x"):
            name, always, group, longest = line.partition("#")[0].split()
            unknown.append((_BITS[name], always == "1", group == "1", int(longest), kinds.get(name, [])))
    return sorted(unknown, key=lambda each: each[0])


def kind_of(part: Sequence[str]) -> int:
    """The kind of a word by the six fields of its part of speech."""
    return NUMERAL if tuple(part) == _NUMERAL else _KINDS.get(part[0], 0)


def _changes(rewrite: list[str]) -> list[tuple[str, str]]:
    """What one or two characters become: by rewrite.def, else the small letter in NFKC."""
    kept = {line for line in rewrite if len(line.split()) == 1}
    changes = dict(_normalised(kept))
    changes |= {line.split()[0]: line.split()[1] for line in rewrite if len(line.split()) == 2}
    if any(len(code) > 2 for code in changes):
        raise UnlikeSudachiError("rewrite.def changes more than two characters at once")
    return list(changes.items())


def _normalised(kept: set[str]) -> Iterator[tuple[str, str]]:
    for first, last in _CHANGING:
        for code in range(first, last):
            character = chr(code)
            if 0xD800 <= code < 0xE000:
                continue
            into = character.lower() if character.isupper() else character
            if character not in kept:
                into = unicodedata.normalize("NFKC", into)
            if into[0] != character:
                yield character, into
