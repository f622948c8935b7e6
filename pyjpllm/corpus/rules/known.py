"""Rules that look at what is known about a document in place of its text: its host, numbers in its meta."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.rules.presets import Rule


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
    host = host_of(document)
    return Finding(rule, None, not host or rule.keeps_host(host), host or "no url")


def _number(rule: Rule, key: str, document: Document) -> Finding:
    value = document.meta.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Finding(rule, None, True, "not in meta")
    return Finding(rule, float(value), rule.keeps(value))


def host_of(document: Document) -> str:
    """The host of the document's `url`, in small letters; empty when it has none that can be read."""
    url = document.meta.get("url")
    try:
        return (urlsplit(url).hostname or "").rstrip(".") if isinstance(url, str) else ""
    except ValueError:  # a bracket that is no IPv6 address
        return ""
