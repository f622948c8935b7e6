"""`kind = "normalize"`: steps that make the same text look the same, each of them switchable. Those that lose something
are off by default.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.faults import EMPTIED
from pyjpllm.corpus.stage import Stage, Verdict
from pyjpllm.corpus.stage_config import StageConfig
from pyjpllm.corpus.unicode import normalize

# Control characters but tab and line end, and what is invisible and means nothing between Japanese characters: soft
# hyphen, zero-width space, word joiner, marks of direction, byte order mark. Joiners of emoji and variation
# selectors stay.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)
_LINE_ENDS = "\r\x85\u2028\u2029"
_APART = re.compile("[\u304b-\u30fd]([\u3099\u309a])")
_HALF_WIDTH = re.compile("[\uff61-\uff9f]+")
# What stands for a wave dash: Windows' table of Shift_JIS has U+FF5E where JIS has U+301C.
_WAVE = str.maketrans("～", "〜")
_KATAKANA = "ァ-ヺ"
_LONG = re.compile(f"(?<=[{_KATAKANA}])[‐‑‒–—―−－ｰ─━](?=[{_KATAKANA}ー]|\\b|$|[^0-9A-Za-z０-９Ａ-Ｚａ-ｚ])")
_JAPANESE = "ぁ-ゖァ-ヺー々〆一-鿿"
_COMMA = re.compile(f"(?<=[{_JAPANESE}」』）])[，,](?=[{_JAPANESE}「『（\n]|$)")
_STOP = re.compile(f"(?<=[{_JAPANESE}」』）])[．.](?=[{_JAPANESE}「『（\n]|$)")
_SPACES = re.compile(r"[^\S\n]+")
_SPACE_AROUND = re.compile(" ?\n ?")
_BLANK_LINES = re.compile("\n{3,}")
_WRAPPED = re.compile(f"(?<=[{_JAPANESE}、，])\n(?=[{_JAPANESE}「『（])")

# NFKC makes these to something else than what they are read as: a tilde, three stops, a space with an accent behind.
_NFKC_KEEPS = "～…‥゛゜´¨｀￣"


def strip_invisible(text: str) -> str:
    """Without control characters (tab and line end stay) and invisible ones."""
    return _INVISIBLE.sub("", text)


def unify_line_ends(text: str) -> str:
    """CR LF, CR, NEL and U+2028/2029 as LF."""
    for end in ("\r\n", *_LINE_ENDS):
        if end in text:  # nine times as fast as a regular expression where there is none
            text = text.replace(end, "\n")
    return text


def compose_kana(text: str) -> str:
    """Kana with a combining (semi-)voiced sound mark as one character: か + U+3099 is が."""
    if "\u3099" not in text and "\u309a" not in text:
        return text
    return _APART.sub(lambda match: unicodedata.normalize("NFC", match[0]), text)


def widen_kana(text: str) -> str:
    """Half-width katakana and punctuation as full-width ones: ｶﾞ is ガ."""
    return _HALF_WIDTH.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)


def nfkc(text: str, keep: str) -> str:
    """NFKC, the characters of ``keep`` left as they are."""
    if not keep or not any(character in text for character in keep):
        return normalize("NFKC", text)
    parts = re.split(f"([{re.escape(keep)}]+)", text)
    return "".join(part if at % 2 else normalize("NFKC", part) for at, part in enumerate(parts))


def unify_wave_dash(text: str) -> str:
    """U+FF5E as U+301C."""
    return text.translate(_WAVE)


def unify_long_vowel(text: str) -> str:
    """Hyphens and dashes behind katakana as the long vowel mark: サ−バ is サーバ. Ranges of numbers stay."""
    return _LONG.sub("ー", text)


def japanese_punctuation(text: str) -> str:
    """Comma and full stop between Japanese characters as 、 and 。, as most Japanese text has them."""
    return _STOP.sub("。", _COMMA.sub("、", text))


def join_lines(text: str, width: int) -> str:
    """Join a line to the next where a sentence goes on: the break lies between Japanese characters, behind no full
    stop, and the line has at least ``width`` characters, so that headings and lists stay."""
    out: list[str] = []
    start = 0
    for match in _WRAPPED.finditer(text):
        begin = text.rfind("\n", 0, match.start()) + 1
        if match.start() - begin >= width:
            out.append(text[start : match.start()])
            start = match.end()
    return "".join((*out, text[start:]))


def single_space(text: str) -> str:
    """Without white space at both ends of lines, and one space for all of it within them."""
    return _SPACE_AROUND.sub("\n", _SPACES.sub(" ", text)).strip(" ")


def no_blank_lines(text: str) -> str:
    """Without lines that hold nothing but white space, and without a line end at either end."""
    return "\n".join(line for line in text.split("\n") if line and not line.isspace())


def trim_space(text: str) -> str:
    """Without white space at line ends, and with no more than one empty line in a row."""
    lines = "\n".join(line.rstrip(" \t\u3000") for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", lines).strip("\n")


class NormalizeConfig(StageConfig):
    """Makes the same text look the same, in the order of these fields. Drops a document of which it leaves nothing
    (`emptied`)."""

    kind: Literal["normalize"]
    strip_invisible: bool = True
    """Take out control characters (tab and line end stay), soft hyphens, zero-width spaces, marks of direction and byte
    order marks."""
    line_ends: bool = True
    """CR LF, CR, NEL and U+2028/2029 become LF."""
    compose_kana: bool = True
    """か with a combining voiced sound mark becomes が."""
    half_width_kana: bool = False
    """ｶﾞ becomes ガ, ｡ becomes 。"""
    nfkc: bool = False
    """Unicode's NFKC: Ａ, ①, ㌔ become A, 1, キロ."""
    nfkc_keep: str = _NFKC_KEEPS
    """Characters that NFKC leaves as they are."""
    wave_dash: bool = False
    """～ (U+FF5E) becomes 〜 (U+301C)."""
    long_vowel: bool = False
    """Hyphens and dashes behind katakana become ー: サ−バ becomes サーバ."""
    punctuation: bool = False
    """，．between Japanese characters become 、。"""
    join_lines: bool = False
    """A line joins the next one where a Japanese sentence goes on."""
    join_width: int = 20
    """`join_lines`: only lines of at least this many characters, so that headings and lists stay."""
    single_space: bool = False
    """White space within a line becomes one space, and goes at both of its ends."""
    no_blank_lines: bool = False
    """Take out lines without a character but white space. Extraction leaves one between paragraphs; rules that count
    lines were made for text without them."""
    trim_space: bool = False
    """Take out white space at line ends and all but one empty line in a row."""

    def build(self) -> Stage:
        steps: list[Callable[[str], str]] = []
        for wanted, step in (
            (self.line_ends, unify_line_ends),
            (self.strip_invisible, strip_invisible),
            (self.compose_kana, compose_kana),
            (self.half_width_kana, widen_kana),
            (self.nfkc, lambda text: nfkc(text, self.nfkc_keep)),
            (self.wave_dash, unify_wave_dash),
            (self.long_vowel, unify_long_vowel),
            (self.punctuation, japanese_punctuation),
            (self.join_lines, lambda text: join_lines(text, self.join_width)),
            (self.single_space, single_space),
            (self.no_blank_lines, no_blank_lines),
            (self.trim_space, trim_space),
        ):
            if wanted:
                steps.append(step)
        return Normalize(self.name or self.kind, steps)


class Normalize:
    """The stage: its steps, one after another."""

    def __init__(self, name: str, steps: Sequence[Callable[[str], str]]) -> None:
        self.name = name
        self._steps = tuple(steps)

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        """All are kept but those that held nothing else than what goes."""
        return [self._normalized(document) for document in documents]

    def _normalized(self, document: Document) -> Verdict:
        text = document.text
        for step in self._steps:
            text = step(text)
        if text == document.text:
            return Verdict(document)
        return Verdict(Document(text, document.meta)) if text.strip() else Verdict(document, EMPTIED)
