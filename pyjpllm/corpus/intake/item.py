"""What a reader of the pipeline takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.faults import Fault, Skip

Item: TypeAlias = Document | Fault | Skip


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an input: a whole file (``end`` None), or the lines that begin at bytes ``start`` to ``end`` - 1 of a
    plain JSON Lines file, or the row groups ``start`` to ``end`` - 1 of a Parquet file."""

    path: Path
    start: int = 0
    end: int | None = None
    original: Path | None = None
    """Of a page that is a translation (``pairs``): the page that it is of ..."""
    by: str = ""
    """... and what joins their segments."""
