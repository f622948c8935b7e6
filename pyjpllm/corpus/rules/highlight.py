"""Where in a text the reason of a rule lies: ranges of characters, for `jpllm corpus inspect`.

Slow and for one document at a time; what a rule decides comes from the native measures, never from here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from pyjpllm import _text
from pyjpllm.corpus.rules.sudachi import NOUN, NUMERAL

Range = tuple[int, int]
"""Characters [first, last)."""
Word = tuple[int, int, int]
"""A word's characters [first, last), and its kind."""

_SENTENCE = re.compile(r"[^。．！？!?\n]+[。．！？!?]?")
_LINE = re.compile(r"[^\n]+")
_ELLIPSIS_LINE = re.compile(r"^[^\n]*(?:\.{3}|…|・)\s*$", re.MULTILINE)
_BOARD = re.compile(
    r"\d{4}[年.\-/] *\d{1,2}[月.\-/] *\d{1,2}日*|コメント|SOLD OUT|レビュー|投稿|ページ"
    r"|\([月火水木金土日]\)|質問|(?<!\d)\d+話|楽天市場|-"
)
_URL = re.compile(r"https?://[!#-;=?-~]*")


def merged(ranges: Sequence[Range]) -> list[Range]:
    """Ranges in their order, those that touch made one."""
    out: list[Range] = []
    for first, last in sorted(ranges):
        if out and first <= out[-1][1]:
            out[-1] = (out[-1][0], max(last, out[-1][1]))
        elif last > first:
            out.append((first, last))
    return out


def _found(pattern: re.Pattern[str], text: str) -> list[Range]:
    return [match.span() for match in pattern.finditer(text)]


def _again(pattern: re.Pattern[str], text: str) -> Iterator[Range]:
    """Pieces that were there before."""
    seen: set[str] = set()
    for match in pattern.finditer(text):
        if match[0] in seen:
            yield match.span()
        seen.add(match[0])


def _longest_run(text: str) -> list[Range]:
    runs = [match.span() for match in re.finditer(r"(?s)(.)\1*", text)]
    return [max(runs, key=lambda run: run[1] - run[0])] if runs else []


def _grams(text: str, n: int, *, top: bool) -> list[Range]:
    """N-grams of characters that occur more than once, or all occurrences of the commonest."""
    counts = Counter(text[i : i + n] for i in range(len(text) - n + 1))
    if not counts:
        return []
    commonest = counts.most_common(1)[0][0]
    return [
        (i, i + n)
        for i in range(len(text) - n + 1)
        if (text[i : i + n] == commonest if top else counts[text[i : i + n]] > 1)
    ]


def _word_grams(text: str, words: Sequence[Word], n: int, *, top: bool) -> list[Range]:
    grams = [tuple(text[word[0] : word[1]] for word in words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = Counter(grams)
    commonest = counts.most_common(1)[0][0] if counts else ()
    return [
        (words[i][0], words[i + n - 1][1])
        for i, gram in enumerate(grams)
        if (gram == commonest if top else counts[gram] > 1)
    ]


_BY_MEASURE: dict[str, Callable[[str], Sequence[Range]]] = {
    "board_marks": lambda text: _found(_BOARD, text),
    "ellipses": lambda text: _found(re.compile(r"\.{3}|…"), text),
    "ellipses_per_word": lambda text: _found(re.compile(r"\.{3}|…"), text),
    "hashes": lambda text: _found(re.compile("#"), text),
    "hashes_per_word": lambda text: _found(re.compile("#"), text),
    "url_fraction": lambda text: _found(_URL, text),
    "urls": lambda text: _found(_URL, text),
    "longest_run": _longest_run,
    "special_fraction": lambda text: [(i, i + 1) for i, c in enumerate(text) if _text.character_class(ord(c)) & 0xE0],
    "lines_to_10_fraction": lambda text: _found(re.compile(r"^[^\n]{1,10}$", re.MULTILINE), text),
    "lines_to_30_fraction": lambda text: _found(re.compile(r"^[^\n]{1,30}$", re.MULTILINE), text),
    "bullet_line_fraction": lambda text: _found(re.compile(r"^[^\S\n]*[•-][^\n]*", re.MULTILINE), text),
    "ellipsis_line_fraction": lambda text: _found(_ELLIPSIS_LINE, text),
    "ellipsis_per_newline": lambda text: _found(_ELLIPSIS_LINE, text),
    "ellipsis_sentence_fraction": lambda text: _found(_ELLIPSIS_LINE, text),
    "max_sentence_length": lambda text: sorted(_found(_SENTENCE, text), key=lambda r: r[0] - r[1])[:1],
    "commonest_5gram_fraction": lambda text: _grams(text, 5, top=False),
    "kana_in_first_50": lambda text: [(0, min(len(text), 50))],
}


def highlight(measure: str, text: str, *, lists: dict[str, list[str]], words: Sequence[Word] | None) -> list[Range]:
    """What of the text a measure has counted; empty where it is the text as a whole (its length, its scripts).

    ``words``: those that the rule was measured with; None: those of the scripts, of which none is a noun.
    """
    name, _, _ = measure.rpartition(".")
    if name:
        return merged(_text.WordLists([lists[name]]).find(text)[0])
    gram = re.fullmatch(r"(top|duplicate|repeated)_(\d+)(gram|word)(_type)?_fraction", measure)
    if gram is not None and gram[3] == "gram":
        return merged(_grams(text, int(gram[2]), top=gram[1] == "top"))
    if gram is not None:
        given = [(a, b, 0) for a, b in _text.words_by_script(text).tolist()] if words is None else words
        return merged(_word_grams(text, given, int(gram[2]), top=gram[1] == "top"))
    if measure == "noun_fraction":
        return merged([(first, last) for first, last, kind in words or () if kind in (NOUN, NUMERAL)])
    if measure.startswith("duplicate_sentence"):
        return merged(list(_again(_SENTENCE, text)))
    if measure.startswith("duplicate_block"):
        return merged(list(_again(re.compile(r"[^\n]+(?:\n[^\n]+)*"), text)))
    if measure.startswith("duplicate_"):
        return merged(list(_again(_LINE, text)))
    found = _BY_MEASURE.get(measure)
    return [] if found is None else merged(found(text))
