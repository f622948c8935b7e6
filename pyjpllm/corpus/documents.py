"""A document: text, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Document:
    """One document of a corpus. ``meta`` holds whatever came with the text (url, title, licence, ...)."""

    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)
