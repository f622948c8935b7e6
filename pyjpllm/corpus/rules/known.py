"""Rules that look at what is known about a document in place of its text: its host, its page's language, numbers in its
meta. They cost next to nothing, and a document about which nothing of the kind is known is kept."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from urllib.parse import urlsplit

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.rules.edits import KANA
from pyjpllm.corpus.rules.presets import Rule

_KANJI = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3005\u3006\u3007]")
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says of one document."""

    rule: Rule
    value: float | None
    """What was measured; None where a rule looks at something else than a number, or the number is not there."""
    kept: bool
    seen: str = ""
    """Without a value: what the rule saw, for people."""


def known(rule: Rule, document: Document) -> Finding:
    """What a rule without a measure says."""
    if rule.meta is not None:
        return _number(rule, rule.meta, document)
    if rule.japanese_page:
        return _language(rule, document)
    host = host_of(document)
    return Finding(rule, None, not host or rule.keeps_host(host), host or "no url")


def _number(rule: Rule, key: str, document: Document) -> Finding:
    value = document.meta.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Finding(rule, None, True, "not in meta")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond all floats
        number = math.copysign(sys.float_info.max, value)
    return Finding(rule, number, rule.keeps(number))


def _language(rule: Rule, document: Document) -> Finding:
    """Swallow's look at a page before it is read: what `<html lang>` says, else the title.

    Kana in the title are Japanese whatever the attribute says, which is often that of a template. A title of kanji
    alone may be Chinese: it counts where there is no attribute, and the text decides later. Only pages are judged,
    which have `html_lang` or, from our reading, `encoding` in their meta: a `title` may be anything else's.
    """
    language, title = (_text(document, key) for key in ("html_lang", "title"))
    if not language and not (title and _text(document, "encoding")):
        return Finding(rule, None, True, "no page")
    if language.replace("_", "-").partition("-")[0].lower() == "ja":
        return Finding(rule, None, True, f"lang {language}")
    if KANA.search(title):
        return Finding(rule, None, True, "kana in title")
    if not language and _KANJI.search(title):
        return Finding(rule, None, True, "kanji in title")
    return Finding(rule, None, False, f"lang {language[:_SHOWN]}" if language else "no kanji or kana in title")


def _text(document: Document, key: str) -> str:
    value = document.meta.get(key)
    return value.strip() if isinstance(value, str) else ""


def host_of(document: Document) -> str:
    """The host of the document's `url`, in small letters; empty when it has none that can be read."""
    url = document.meta.get("url")
    try:
        return (urlsplit(url).hostname or "").rstrip(".") if isinstance(url, str) else ""
    except ValueError:  # a bracket that is no IPv6 address
        return ""
