"""Parallel text out of pairs of HTML pages: a tree of translations beside that of the originals, with the same names.

`id`     segments are joined on the attribute id of their elements, as the pages of LibreOffice's help have them
`order`  segments are joined by their order, where both pages have the same elements in the same order, as the manuals
         of GIMP and Debian have them

A segment becomes a document: the translation is the text, the original is ``source`` in the meta.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyjpllm.corpus import encoding
from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.faults import Fault, Skip, excerpt_of
from pyjpllm.corpus.inputs import expand_inputs
from pyjpllm.corpus.intake.bounded import Bounds
from pyjpllm.corpus.intake.html import encodable, too_much
from pyjpllm.corpus.intake.item import Item, Span
from pyjpllm.corpus.intake.text import read_whole
from pyjpllm.errors import UserError

JoinedBy = Literal["id", "order"]
HTML = (".html", ".html.gz", ".htm")


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


_BLOCKS = _set(
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure footer form "
    "h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section summary table tbody td tfoot th thead tr ul br"
)
_NO_TEXT = _set("head script style noscript template svg math textarea select button")
_SPACE = re.compile(r"\s+")
# Lines of Japanese are wrapped without a space that would be meant.
_WRAPPED = re.compile("(?<=[\u3000-\u9fff\uff00-\uffef])[^\\S\n]*\n\\s*(?=[\u3000-\u9fff\uff00-\uffef])")


@dataclass(frozen=True)
class Segment:
    """A text: the block element that it is directly in, and the id of that, or else of an element within the text."""

    element: str
    identifier: str
    text: str


def pair_spans(translation: str, original: str, by: JoinedBy) -> list[Span]:
    """The pages of the folder ``translation``, each with the place of its original, whether or not that is there.

    Raises UserError where one is no folder, or the first holds no page.
    """
    for folder in (translation, original):
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder of pages; [[input.pairs]] takes two folders with the same names")
    pages = expand_inputs(translation, HTML)
    return [Span(page, original=Path(original) / page.relative_to(translation), by=by) for page in pages]


def read_pair(span: Span, bounds: Bounds) -> Iterator[Item]:
    """The segments of a page and its original."""
    assert span.original is not None
    path = str(span.path)
    shown = path.encode("utf-8", "backslashreplace").decode()  # a file's name need not be UTF-8
    if not span.original.is_file():
        yield Fault("no-original", path, 0, f"there is no {span.original}")
        return
    pages: list[list[Segment]] = []
    for file in (span.path, span.original):
        found = _segments_of(file, bounds)
        if isinstance(found, Fault):
            yield found
            return
        pages.append(found)
    pairs = _by_id(*pages) if span.by == "id" else _by_order(*pages)
    if isinstance(pairs, str):
        yield Fault("pages-differ", path, 0, f"{pairs} ({span.original})")
        return
    for translated, source in pairs:
        if source is None:
            yield Skip("unpaired")
        elif translated.text == source.text:
            yield Skip("untranslated")
        else:
            meta = {"source": source.text, "page": shown}
            if span.by == "id":
                meta["id"] = translated.identifier
            yield Document(translated.text, meta)


def _by_id(page: list[Segment], original: list[Segment]) -> list[tuple[Segment, Segment | None]] | str:
    """Each segment with the one of the same id, or why there is none. Of an id's several segments the n-th belongs to
    the n-th, where there are as many."""
    mine, its = _grouped(page), _grouped(original)
    if not mine.keys() & its.keys():
        return f"of {len(mine)} ids none is one of the {len(its)} of the original" if mine else "no element has an id"
    pairs: list[tuple[Segment, Segment | None]] = []
    for identifier, segments in mine.items():
        sources = its.get(identifier, [])
        same = len(sources) == len(segments)
        pairs += [(segment, sources[n] if same else None) for n, segment in enumerate(segments)]
    return pairs


def _grouped(segments: list[Segment]) -> dict[str, list[Segment]]:
    groups: dict[str, list[Segment]] = {}
    for segment in segments:
        if segment.identifier:
            groups.setdefault(segment.identifier, []).append(segment)
    return groups


def _by_order(page: list[Segment], original: list[Segment]) -> list[tuple[Segment, Segment | None]] | str:
    """Segments in their order, or where the order of elements is not the same."""
    for number, (one, other) in enumerate(zip(page, original, strict=False)):
        if one.element != other.element:
            return f"segment {number} is a <{one.element}>, in the original a <{other.element}>"
    if len(page) != len(original):
        return f"{len(page)} segments, {len(original)} in the original"
    return list(zip(page, original, strict=True)) if page else "no text in the page"


def _segments_of(file: Path, bounds: Bounds) -> list[Segment] | Fault:
    data = read_whole(file, bounds)
    if isinstance(data, Fault):
        return data
    found = encoding.detect(data, encoding.declared_encodings(data, "text/html"))
    if found is None:
        return Fault("undecodable", str(file), 0, "no encoding fits", excerpt_of(data))
    html = encoding.decode(data, found.name)
    wrong = too_much(html)
    if wrong:
        return Fault("bad-html", str(file), 0, wrong, excerpt_of(html))
    try:
        return segments(html)
    except Exception as error:  # whatever the parser's binding raises, the next page has nothing to do with it
        return Fault("bad-html", str(file), 0, f"{type(error).__name__}: {error}", excerpt_of(html))


def segments(html: str) -> list[Segment]:
    """The texts between the beginnings and ends of block elements, in their order; white space is one space."""
    from resiliparse.parse.html import HTMLTree

    found: list[Segment] = []
    parts: list[str] = []
    # Elements open around the text: name and id.
    stack: list[tuple[str, str]] = [("body", "")]
    inner = [""]  # the id of an element within the text, such as an anchor

    def flush() -> None:
        text = _SPACE.sub(" ", _WRAPPED.sub("", "".join(parts))).strip()
        if text:
            element, identifier = next(entry for entry in reversed(stack) if entry[0] in _BLOCKS)
            found.append(Segment(element, identifier or inner[0], encodable(text)))
        parts.clear()
        inner[0] = ""

    # A walk without recursion: pages may be nested deeper than Python is.
    body = HTMLTree.parse(html).body
    node: Any = body.first_child if body is not None else None
    while node is not None:
        name = str(node.tag)
        if name == "#text":
            parts.append(str(node.text))
        elif name in _BLOCKS:
            flush()
        elif node.type == 1 and not inner[0]:
            inner[0] = node.getattr("id") or ""
        if node.type == 1 and name not in _NO_TEXT and node.first_child is not None:
            stack.append((name, node.getattr("id") or ""))
            node = node.first_child
            continue
        while node is not None and node.next is None:
            node = node.parent
            if node is None or node == body:
                node = None
                break
            if str(node.tag) in _BLOCKS:
                flush()
            stack.pop()
        if node is not None:
            node = node.next
    flush()
    return found
