"""The text of a page: bytes to characters, then Resiliparse's extraction, or trafilatura's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from typing import Any, Literal

from pyjpllm.corpus import encoding
from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.faults import Fault, excerpt_of
from pyjpllm.corpus.intake.bounded import Bounds
from pyjpllm.corpus.intake.item import Item, Span
from pyjpllm.corpus.intake.text import read_whole
from pyjpllm.errors import UserError

Extract = Literal["main", "all", "trafilatura"]
LINK_FRACTION = "link_fraction"
"""In the meta of a page: characters of its text that stand in links, of all, white space left out."""

# Resiliparse takes quadratic time in these: 4 s for elements nested 10,000 deep, minutes for 200,000 attributes in a
# tag. A browser itself stops nesting at 512.
_MAX_DEPTH = 2_000
_MAX_ATTRIBUTES = 5_000
_LONG_TAG = re.compile(r"<[A-Za-z][^>]{20000,}")
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)")
# Elements without an end, or whose end may be left out and which do not nest.
_FLAT = re.compile(
    "(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr|p|li|dt|dd|option|tr|td|th|thead|tbody|"
    "tfoot|colgroup|optgroup|rt|rp|html|head|body)",
    re.IGNORECASE,
)
# Resiliparse takes a text of one character of three bytes for the icon of a font and leaves it out of the main content:
# every kana and kanji that stands alone between two tags. A noncharacter behind it keeps it. What icons are stays out:
# characters for private use, and arrows, dingbats and the like, which alone between tags are those of a navigation.
_BLANK = r"[ \t\n\r\f]*"
_NO_ICON = r"[\u0800-\u218f\u2200-\u22ff\u2400-\u25ff\u2c00-\ud7ff\uf900-\uffef]"
_LONE = re.compile(rf">{_BLANK}({_NO_ICON}|&#?\w{{2,32}};)(?={_BLANK}<)")
_NO_ICON_ALONE = re.compile(_NO_ICON)
_BESIDE = "\ufdd0"
# A page wrongly said to be HTML, such as an image: this share of what is read as text is no character.
_MAX_BROKEN = 0.1
_DIGITS = 6  # of a number in the meta


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is taken of a page."""

    extract: Extract = "main"
    """Its text."""
    links: bool = False
    """Measure ``LINK_FRACTION``, for which the text is extracted again without its links."""


@dataclass(frozen=True)
class Page:
    """A page as it came: ``content_type`` is the header's."""

    data: bytes
    content_type: str
    meta: dict[str, Any]


def read_html(span: Span, bounds: Bounds, extraction: Extraction) -> Iterator[Item]:
    """The document of a file of HTML."""
    path = str(span.path)
    data = read_whole(span.path, bounds)
    yield data if isinstance(data, Fault) else document_of(Page(data, "text/html", {}), path, 0, extraction)


def document_of(page: Page, path: str, at: int, extraction: Extraction) -> Document | Fault:
    """The document of a page: its text, and in its meta ``encoding``, ``title`` and ``html_lang`` where it has them,
    and ``link_fraction`` of HTML if that is asked for."""
    found = encoding.detect(page.data, encoding.declared_encodings(page.data, page.content_type))
    if found is None:
        return Fault("undecodable", path, at, _detail(page, "no encoding fits"), excerpt_of(page.data))
    text = encoding.decode(page.data, found.name)
    if text.count("\ufffd") > _MAX_BROKEN * max(1, len(text)):
        detail = _detail(page, f"{text.count(chr(0xFFFD))} of {len(text)} characters are not {found.name}")
        return Fault("undecodable", path, at, detail, excerpt_of(page.data))
    meta = {**page.meta, "encoding": found.name}
    if "html" in page.content_type:
        wrong = too_much(text)
        if wrong:
            return Fault("bad-html", path, at, _detail(page, wrong), excerpt_of(text))
        try:
            text = _extracted(text, meta, extraction)
        except Exception as error:  # whatever the parser's binding raises, the next page has nothing to do with it
            return Fault("bad-html", path, at, _detail(page, f"{type(error).__name__}: {error}"), excerpt_of(text))
    if not text.strip():
        return Fault("empty-text", path, at, _detail(page, "no text in the page"))
    return Document(text, meta)


def check_extract(extract: Extract) -> None:
    """Raise UserError where the library that ``extract`` needs is not installed."""
    if extract == "trafilatura":
        try:
            import trafilatura  # noqa: F401
        except ImportError as error:
            raise UserError(
                f'input.extract = "trafilatura": it cannot be loaded ({error}); '
                "pip install 'pyjpllm[trafilatura]', or take extract = \"main\""
            ) from None


def _extracted(html: str, meta: dict[str, Any], extraction: Extraction) -> str:
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(_LONE.sub(_kept, html) if extraction.extract == "main" else html)
    if tree.title:
        meta["title"] = encodable(str(tree.title).replace(_BESIDE, ""))
    root = tree.document.query_selector("html") if tree.document is not None else None
    language = root.getattr("lang") if root is not None else None
    if language:
        meta["html_lang"] = encodable(str(language))
    if extraction.extract == "trafilatura":
        text, links = _by_trafilatura(html, extraction.links)
    else:
        main = extraction.extract == "main"
        text, links = _plain_text(tree, main), None
        if extraction.links:
            links = _share(_written(text) - _written(_plain_text(tree, main, ["a[href]"])), _written(text))
    if links is not None:
        meta[LINK_FRACTION] = links
    return encodable(text)


def _kept(lone: re.Match[str]) -> str:
    """A lone character, or the reference to one, with what keeps it from being taken for an icon."""
    one = unescape(lone[1]) if lone[1].startswith("&") else lone[1]
    return lone[0] + _BESIDE if _NO_ICON_ALONE.fullmatch(one) else lone[0]


def _plain_text(tree: Any, main: bool, skip: list[str] | None = None) -> str:
    """The text of a parsed page without the elements that the selectors ``skip`` find. Whether an element is main
    content is told by its names and place, not by the text in it, so the rest stays the same."""
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(
        tree, preserve_formatting=True, main_content=main, list_bullets=False, alt_texts=False, skip_elements=skip
    )
    return text.replace(_BESIDE, "")


def _by_trafilatura(html: str, links: bool) -> tuple[str, float | None]:
    """The text, and if asked for the share of links: in the text that is found where links are left in as elements."""
    import trafilatura

    # Without what it remembers from page to page: the text of one must not depend on those before it.
    found = trafilatura.extract(html, include_comments=False, deduplicate=False, with_metadata=False) or ""
    if not links or not found:
        return found, None
    whole: Any = trafilatura.bare_extraction(
        html, include_links=True, include_comments=False, deduplicate=False, with_metadata=False
    )
    if whole is None:
        return found, None
    inside: int = sum(_written("".join(link.itertext())) for link in whole.body.iterfind(".//ref[@target]"))
    return found, _share(inside, _written("".join(whole.body.itertext())))


def _written(text: str) -> int:
    """Characters that are not white space."""
    return sum(map(len, text.split()))


def _share(part: int, whole: int) -> float:
    return round(part / whole, _DIGITS) if whole else 0.0


def encodable(text: str) -> str:
    """Character references can name half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def too_much(html: str) -> str | None:
    """What of a page would keep the parser busy for too long; None where nothing does."""
    for tag in _LONG_TAG.findall(html):
        if len(tag.split()) > _MAX_ATTRIBUTES:
            return f"a tag of {len(tag.split())} attributes"
    if html.count("<") - html.count("</") <= _MAX_DEPTH:
        return None
    depth = deepest = 0
    for end, name in _TAG.findall(html):
        if not _FLAT.fullmatch(name):
            depth = max(0, depth - 1) if end else depth + 1
            deepest = max(deepest, depth)
    return f"elements nested {deepest} deep" if deepest > _MAX_DEPTH else None


def _detail(page: Page, what: str) -> str:
    url = page.meta.get("url")
    return f"{what} ({url})" if url else what
