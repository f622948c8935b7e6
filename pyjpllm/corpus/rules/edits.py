"""Changes of a text that corpora make before or after they judge it, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pyjpllm import _text
from pyjpllm.corpus.rules.lists import load_list

KANA = re.compile("[\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
_URL = re.compile(r"https?://[\w/:%#$&?()~.=+\-]+")
_ASCII_RUN = re.compile(r"[\x00-\x7f]{100,}")
_BEFORE_MARK = "[）」』］〕】〉》\u3041-\u3096\u30a1-\u30fa々〇〻\u3400-\u9fff\uf900-\ufaff]"
_JAPANESE_MARKS = str.maketrans("，．", "、。")
_HIRAGANA = re.compile("[\u3041-\u3096]")
_NOT_JAPANESE = re.compile("[^\u3041-\u3096\u30a1-\u30fa\u30fc\u3005\u4e00-\u9fff]")
_ENDS = re.compile("[。．！？!?]+")
_CLOSING = frozenset("」』）〕】》〉”’)]")
_NWJC_CHARACTERS = (6, 1023)
_NWJC_HIRAGANA = 0.05
_NWJC_JAPANESE = 0.7
_PROSE_CHARACTERS = 10
_PROSE_SHARE = 0.3
_FOOTER_LINES = 10
_FOOTER_SHARE = 0.3


def japanese_lines(text: str) -> str:
    """llm-jp's extract_japanese_text: lines without kana, addresses and runs of 100 ASCII characters are left out.

    What is left is joined without newlines, as there.
    """
    lines = [line for line in text.split("\n") if KANA.search(line)]
    return "".join(_ASCII_RUN.sub("", _URL.sub("", line)) for line in lines)


def is_prose(line: str) -> bool:
    """A line of at least ten characters with hiragana in it and at least 30% Japanese letters, spaces not counted."""
    if len(line) < _PROSE_CHARACTERS or not _HIRAGANA.search(line):
        return False
    return len(_NOT_JAPANESE.sub("", line)) >= _PROSE_SHARE * len(line.replace(" ", ""))


def prose_lines(text: str) -> str:
    """Only the lines that are Japanese prose: no headings, options, program listings, menus."""
    return "\n".join(line for line in text.split("\n") if is_prose(line))


def swallow_punctuation(text: str) -> str:
    """Swallow's kutoten.py: `，` becomes `、`, and `．` `。`, each if it is the usual mark of the text's Japanese.

    That is, if more runs of it stand behind kana, kanji and closing brackets than of the Japanese mark. A run behind a
    full-width digit or letter stays.
    """
    for western, japanese in (("，", "、"), ("．", "。")):
        if western not in text:
            continue
        runs = {mark: len(re.findall(f"{_BEFORE_MARK}{mark}+", text)) for mark in (western, japanese)}
        if runs[western] > runs[japanese]:
            text = re.sub(f"(?<=[^０-９Ａ-Ｚａ-ｚ^])({western}+)", lambda run: run[0].translate(_JAPANESE_MARKS), text)
    return text


def footer() -> Callable[[str], str]:
    """Swallow's footer.py: cuts the text at the first of its last ten lines that is footer words by more than 30%."""
    words = _text.WordLists([load_list("footer")])

    def cut(text: str) -> str:
        lines = text.split("\n")
        first = max(len(lines) - _FOOTER_LINES, 0)
        for i in range(first, len(lines)):
            ((_, characters),) = words.count(lines[i])
            if characters > _FOOTER_SHARE * len(lines[i]):
                return "\n".join(lines[:i])
        return text

    return cut


def sentences(line: str) -> Iterator[str]:
    """The parts of a line up to marks that no closing bracket follows: a quotation does not end what is around it."""
    start = 0
    for marks in _ENDS.finditer(line):
        end = marks.end()
        if line[end : end + 1] not in _CLOSING:
            yield line[start:end]
            start = end
    if start < len(line):
        yield line[start:]


def nwjc_sentences() -> Callable[[str], str]:
    """Leaves the sentences that the NINJAL Web Japanese Corpus takes: of 6 to 1023 characters without the white space
    around them, at least 5% hiragana and at least 70% Japanese, as the measures of these names count. Lines without
    such a sentence are left out."""
    measures = _text.Measures(["characters", "hiragana_fraction", "japanese_fraction"], [])

    def taken(sentence: str) -> bool:
        characters, hiragana, japanese = measures.measure(sentence.strip(), None)
        return (
            _NWJC_CHARACTERS[0] <= characters <= _NWJC_CHARACTERS[1]
            and hiragana >= _NWJC_HIRAGANA
            and japanese >= _NWJC_JAPANESE
        )

    def cut(text: str) -> str:
        lines = ("".join(filter(taken, sentences(line))).strip() for line in text.split("\n"))
        return "\n".join(line for line in lines if line)

    return cut


EDITS: dict[str, Callable[[], Callable[[str], str]]] = {
    "footer": footer,
    "japanese-lines": lambda: japanese_lines,
    "nwjc-sentences": nwjc_sentences,
    "prose-lines": lambda: prose_lines,
    "swallow-punctuation": lambda: swallow_punctuation,
}
