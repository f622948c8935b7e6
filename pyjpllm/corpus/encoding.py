"""Which encoding a page is in: from its bytes first, since what pages and servers declare is often wrong.

In order: a byte order mark; UTF-16 without one; the escapes of ISO-2022-JP; UTF-8 that decodes; then the candidates
EUC-JP, CP932 (Shift_JIS with Windows' characters) and whatever was declared, each decoded and scored by how much its
characters look like Japanese. A declaration only decides between encodings that score alike.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

SAMPLE = 4096
"""Bytes that are scored, from the first one on that is not ASCII."""

# The names that the web has for encodings (WHATWG Encoding Standard), where Python's differ or are too narrow.
_WEB_NAMES = {
    "shift_jis": "cp932", "shift-jis": "cp932", "sjis": "cp932", "x-sjis": "cp932", "windows-31j": "cp932",
    "ms_kanji": "cp932", "csshiftjis": "cp932", "ms932": "cp932", "ibm943": "cp932", "cp943": "cp932",
    "euc-jp": "euc_jp", "x-euc-jp": "euc_jp", "eucjp": "euc_jp", "euc": "euc_jp", "eucjp-win": "euc_jp",
    "eucjp-ms": "euc_jp", "cseucpkdfmtjapanese": "euc_jp",
    "iso-2022-jp": "iso2022_jp", "jis": "iso2022_jp", "csiso2022jp": "iso2022_jp", "iso2022jp": "iso2022_jp",
    "utf8": "utf-8", "unicode-1-1-utf-8": "utf-8", "utf-8": "utf-8", "utf_8": "utf-8",
    "gb2312": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030", "gb_2312-80": "gb18030", "chinese": "gb18030",
    "ks_c_5601-1987": "cp949", "euc-kr": "cp949", "korean": "cp949", "big5": "big5hkscs",
    "iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252", "windows-1252": "cp1252",
    "utf-16": "utf-16-le", "unicode": "utf-16-le", "ucs-2": "utf-16-le",
}  # fmt: skip
# Codecs of Python's that are no encodings of pages: three that refuse bytes whatever is asked of them, and three that
# can make halves of surrogate pairs.
_NO_ENCODINGS = ("undefined", "idna", "punycode", "utf-7", "unicode-escape", "raw-unicode-escape")
_NEIGHBOURS = ("gb18030", "big5hkscs", "cp949")
# Stricter first; the later ones know characters of vendors (circled digits and the like in EUC-JP and ISO-2022-JP).
_DECODERS = {
    "euc_jp": ("euc_jp", "euc_jis_2004"),
    "cp932": ("cp932",),
    "iso2022_jp": ("iso2022_jp", "iso2022_jp_2004", "iso2022_jp_ext"),
}
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_UTF16_FRONT = bytes((0x00, 0x20, 0x21, 0x22, 0x25, 0x26, 0x30, 0xFF, *range(0x4E, 0xA0)))
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_ASCII = re.compile("[\x00-\x7f]+")
_ESCAPES = re.compile(rb"\x1b(?:\$[@B]|\$\([@DOPQ]|\([JI])")
_META = re.compile(
    rb"""<meta\s[^>]{0,300}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})|<\?xml\s[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_HEADER = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_META_WITHIN = 4096

# What a character says for (or against) a text being Japanese in the encoding at hand. Kana carry Japanese prose, and
# wrong decodings of double bytes make half-width kana and rare kanji instead.
_CLASSES = (
    ("ぁ-ゖーー、、。。「」", 1.0),
    ("ァ-ヺ・・", 0.7),
    ("！-～\u3000\u3000『』【】", 0.4),
    ("｡-ﾟ", -0.6),
    ("\ue000-\uf8ff\x80-\x9f\ufffd\ufffd", -3.0),
)
_COMMON, _RARE = 0.5, -0.2
_DECLARED = 0.03
"""What a declaration adds to a score; below the gap between a right and a wrong reading of a sentence."""


@dataclass(frozen=True)
class Detected:
    """An encoding by Python's name, and how it was found: `bom`, `ascii`, `escapes`, `utf-8`, `utf-16`, `score`,
    `declared`."""

    name: str
    by: str


def python_name(declared: str) -> str | None:
    """The codec that a page means by a name; None where there is none."""
    word = declared.strip().strip("\"'").lower()
    name = _WEB_NAMES.get(word, word)
    return name if is_encoding(name) else None


def is_encoding(name: str) -> bool:
    """Whether Python has a codec of this name that text is written in."""
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        return False
    return getattr(info, "_is_text_encoding", True) and info.name not in _NO_ENCODINGS


def declared_encodings(data: bytes, header: str = "") -> list[str]:
    """What an HTTP ``Content-Type`` and the page itself say, in that order, as Python's names."""
    words = _HEADER.findall(header)
    for match in _META.finditer(data[:_META_WITHIN]):
        words.append((match[1] or match[2]).decode("ascii"))
    names = (python_name(word) for word in words)
    return list(dict.fromkeys(name for name in names if name is not None))


def detect(data: bytes, declared: Iterable[str] = ()) -> Detected | None:
    """The encoding of a page. ``declared``: Python's names for what was said about it, the likeliest first.

    None: no encoding fits (the bytes are no text).
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return Detected(name, "bom")
    wide = _utf16(data)
    if wide is not None:
        return Detected(wide, "utf-16")
    beyond = _BEYOND_ASCII.search(data)
    if beyond is None:
        if _ESCAPES.search(data):
            return Detected("iso2022_jp", "escapes")
        return Detected("utf-8", "ascii")
    sample = data[beyond.start() : beyond.start() + SAMPLE]
    if _is_utf8(data, sample):
        return Detected("utf-8", "utf-8")
    return _scored(sample, [name for name in declared if not name.startswith("utf-16")])


def decode(data: bytes, encoding: str) -> str:
    """``data`` as text; bytes that do not fit become U+FFFD. A byte order mark is dropped."""
    for name in _DECODERS.get(encoding, ()):
        try:
            return data.decode(name)
        except UnicodeDecodeError:
            continue
    return data.decode(_DECODERS.get(encoding, (encoding,))[-1], "replace").removeprefix("\ufeff")


def _utf16(data: bytes) -> str | None:
    """UTF-16 without a mark: every other byte is one that Latin letters, kana or kanji have in front."""
    head = data[: SAMPLE & ~1]
    if len(head) < 4 or (b"\0" not in head and head.count(0x30) < 0.15 * (len(head) // 2)):
        return None  # what is asked below of one half of the bytes does not hold for all of them
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        front = head[first::2]
        # Without any NUL (no Latin letter, no markup) kana alone must tell.
        if b"\0" not in front and front.count(0x30) < 0.15 * len(front):
            continue
        # A few NULs behind are kanji such as U+4E00.
        few = 0.05 * len(front)
        if head[1 - first :: 2].count(0) <= few and len(front.translate(None, _UTF16_FRONT)) < few:
            return name
    return None


def _is_utf8(data: bytes, sample: bytes) -> bool:
    """Valid, or with so few flaws among so many right sequences that it can be nothing else."""
    try:
        data.decode()
    except UnicodeDecodeError:
        text = sample.decode("utf-8", "replace")
        wrong = text.count("\ufffd")
        right = len(text) - len(text.encode("ascii", "ignore")) - wrong
        return right > 20 * wrong
    return True


def _scored(sample: bytes, declared: list[str]) -> Detected | None:
    best: tuple[float, str] | None = None
    for name in dict.fromkeys(("euc_jp", "cp932", *declared)):
        score = _score(sample, name) + (_DECLARED if name in declared else 0.0)
        if best is None or score > best[0]:
            best = (score, name)
    assert best is not None
    score, name = best
    # Chinese and Korean double bytes read as EUC-JP are common kanji, too, but never much kana.
    other = next((said for said in declared if said in _NEIGHBOURS and _flaws(sample, said) < 0.01), None)
    if other is not None and _kana(sample, name) < 0.05:
        return Detected(other, "declared")
    if score > 0:
        return Detected(name, "score")
    # Nothing looks like Japanese: then the declaration counts, if it fits.
    for name in declared:
        if _flaws(sample, name) < 0.01:
            return Detected(name, "declared")
    return None


def _score(sample: bytes, name: str) -> float:
    """The mean over the characters beyond ASCII of what they say, from -3 to 1."""
    counts = Counter(_ASCII.sub("", decode(sample, name)))  # most of a page is ASCII, and counting is slow
    total = 0.0
    characters = 0
    for character, count in counts.items():
        total += count * _WEIGHTS.get(character, 0.0)
        characters += count
    return total / characters if characters else -3.0


def _kana(sample: bytes, name: str) -> float:
    text = decode(sample, name)
    return sum("ぁ" <= c <= "ヺ" for c in text) / max(1, sum(c > "\x7f" for c in text))


def _flaws(sample: bytes, name: str) -> float:
    text = decode(sample, name)
    return sum(c == "\ufffd" or "\x80" <= c <= "\x9f" for c in text) / max(1, len(text))


def _weights() -> dict[str, float]:
    # The 2,965 kanji of JIS X 0208's first level, rows 16 to 47, are those in common use. Misread double bytes mostly
    # fall into the second level.
    level_1 = (bytes((row + 0xA0, cell + 0xA0)) for row in range(16, 48) for cell in range(1, 95))
    weights = {chr(code): _RARE for code in range(0x4E00, 0xA000)}
    weights.update((two.decode("euc_jp", "ignore"), _COMMON) for two in level_1)
    for ranges, weight in _CLASSES:
        bounds = ranges.replace("-", "")
        for first, last in zip(bounds[::2], bounds[1::2], strict=True):
            weights.update((chr(code), weight) for code in range(ord(first), ord(last) + 1))
    return weights


_WEIGHTS = _weights()
