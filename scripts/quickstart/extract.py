"""Documents out of Debian packages: man pages (roff) and manuals (HTML, also inside a jar) to plain paragraphs.

Only the standard library and `dpkg-deb`. A document is one page; a paragraph is one line.
"""

from __future__ import annotations

import fnmatch
import gzip
import html.parser
import io
import re
import subprocess
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Page(NamedTuple):
    """One page of a package: where it lay and its paragraphs, a line each."""

    name: str
    text: str


def pages(deb: Path, kind: str, pattern: str) -> Iterator[Page]:
    """The pages in ``deb`` whose path matches ``pattern`` (``a/*.jar!b/*.html`` looks into an archive), in path order.

    ``kind`` is ``man`` or ``html``. A page that is not UTF-8 is left out.
    """
    outer, _, inner = pattern.partition("!")
    convert = {"man": from_roff, "html": from_html}[kind]
    found: list[tuple[str, bytes]] = []
    for name, content in _members(deb):
        if fnmatch.fnmatchcase(name, outer):
            found.extend(_jar_members(name, content, inner) if inner else [(name, content)])
    for name, content in sorted(found):
        raw = gzip.decompress(content) if name.endswith(".gz") else content
        try:
            text = convert(raw.decode("utf-8"))
        except UnicodeDecodeError:
            continue
        if text:
            yield Page(name, text)


def _members(deb: Path) -> Iterator[tuple[str, bytes]]:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    yield member.name.removeprefix("./"), file.read()
    if process.returncode:
        raise OSError(f"{deb}: dpkg-deb could not unpack it (exit {process.returncode})")


def _jar_members(name: str, content: bytes, pattern: str) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inner = [entry for entry in archive.namelist() if fnmatch.fnmatchcase(entry, pattern)]
        return [(f"{name}!{entry}", archive.read(entry)) for entry in inner]


def join_lines(lines: list[str]) -> str:
    """Filled text: a space where two Latin words meet, none beside a Japanese character."""
    out = ""
    for line in (part.strip() for part in lines):
        if out and line and not _is_wide(out[-1]) and not _is_wide(line[0]):
            out += " "
        out += line
    return out


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# --- roff -------------------------------------------------------------------------------------------------------------

_BREAKS = _set("PP P LP HP IP TP TQ SH SS br sp RS RE EX EE nf fi in ti ce bp Sp Vb Ve")
_FONTS = _set("B I BR BI IR IB RB RI SM SB R")
_NO_FILL = {"nf": True, "EX": True, "Vb": True, "fi": False, "EE": False, "Ve": False}
_SKIPPED_UNTIL = {"TS": "TE", "EQ": "EN", "PS": "PE"}
_NAMED = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "em": "—", "en": "–", "hy": "-", "bu": "・",
    "co": "©", "ha": "^", "ti": "~", "rs": "\\", "+-": "±", "mu": "×", "->": "→", "<-": "←", "ga": "`", "Aq": "'",
    "lQ": "“", "Lq": "“", "Rq": "”", "Dq": '"',
}  # fmt: skip
_ESCAPE = re.compile(
    r"""\\(?:
      (?P<comment>["#].*)
    | [fFmMgkn](?:\(..|\[[^\]]*\]|[+-]?.)          # font, colour, register
    | s(?:[+-]?(?:\(..|\[[^\]]*\]|'[^']*'|\d))      # size
    | [hvwblLDoxXzABCNRSHYZ]'[^']*'                 # motions, drawings
    | \*?(?:\((?P<two>..)|\[(?P<long>[^\]]*)\])     # named character, string
    | \*.
    | (?P<one>.)
    )""",
    re.VERBOSE,
)
_SINGLE = {"e": "\\", "0": " ", "~": " ", "t": " "} | {character: character for character in "-\\'` ._"}


def from_roff(source: str) -> str:
    """Paragraphs of a man page in the man macros; empty for the mdoc macros and for a page that includes another."""
    if re.search(r"^\.(?:Dd|Sh)\b", source, re.MULTILINE) or source.startswith(".so "):
        return ""
    paragraphs: list[str] = []
    current: list[str] = []
    no_fill, until = False, ""

    def flush() -> None:
        text = join_lines(current)
        if text:
            paragraphs.append(text)
        current.clear()

    for line in source.splitlines():
        macro, arguments = _macro(line)
        if until:
            until = "" if macro == until or (until == ".." and line.startswith("..")) else until
        elif macro is None:
            if no_fill or not line.strip():
                flush()
            current.append(_plain(line))
        elif macro in ("de", "ig", "am"):
            until = ".."
        elif macro in _SKIPPED_UNTIL:
            until = _SKIPPED_UNTIL[macro]
        elif macro in _FONTS:
            current.append("".join(arguments) if len(macro) == 2 and macro not in ("SM", "SB") else " ".join(arguments))
        elif macro in _BREAKS:
            flush()
            no_fill = _NO_FILL.get(macro, no_fill)
            if macro in ("SH", "SS"):
                paragraphs.append(" ".join(arguments))
    flush()
    return "\n".join(filter(None, paragraphs))


def _macro(line: str) -> tuple[str | None, list[str]]:
    """The request of a control line and its arguments, plain; (None, []) for a line of text."""
    if line[:1] not in (".", "'") or line.startswith((".\\", "'\\")):
        return (None, []) if line[:1] not in (".", "'") else ("\\", [])
    name, _, rest = line[1:].strip().partition(" ")
    arguments = re.findall(r'"((?:[^"]|"")*)"?|(\S+)', rest)
    return name, [_plain((quoted or bare).replace('""', '"')) for quoted, bare in arguments]


def _plain(text: str) -> str:
    """Roff escapes resolved to characters."""

    def character(match: re.Match[str]) -> str:
        name = match["two"] or match["long"]
        if name is not None:
            return _NAMED.get(name, "")
        return _SINGLE.get(match["one"] or "", "")

    return _ESCAPE.sub(character, text)


# --- HTML -------------------------------------------------------------------------------------------------------------

_BLOCKS = _set(
    "address article aside blockquote body br caption center dd details div dl dt fieldset figcaption figure footer "
    "form h1 h2 h3 h4 h5 h6 header hr html legend li main nav ol option p pre section summary table tbody td tfoot th "
    "thead tr ul"
)
_DROPPED = _set("head script style pre nav noscript svg math textarea select template button")
_DROPPED_CLASSES = _set("navheader navfooter toc index navigation sphinxsidebar related nav_table")
_VOID = _set("area base br col embed hr img input link meta param source track wbr")


class _Text(html.parser.HTMLParser):
    """Collects text outside dropped elements; every block element ends a paragraph."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self._current: list[str] = []
        self._dropped: list[str] = []  # the elements open inside (and with) a dropped one

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.flush()
        if tag in _VOID:
            return
        classes = {name for key, value in attrs if key == "class" and value for name in value.split()}
        if self._dropped or tag in _DROPPED or classes & _DROPPED_CLASSES:
            self._dropped.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.flush()
        if tag in self._dropped:
            while self._dropped.pop() != tag:  # elements whose end tag was left out
                pass

    def handle_data(self, data: str) -> None:
        if not self._dropped:
            self._current.append(data)

    def flush(self) -> None:
        text = join_lines("".join(self._current).splitlines())
        self._current.clear()
        if text:
            self.paragraphs.append(text)


def from_html(source: str) -> str:
    """Paragraphs of a page: navigation, scripts and program listings are left out."""
    parser = _Text()
    parser.feed(source)
    parser.close()
    parser.flush()
    return "\n".join(parser.paragraphs)
