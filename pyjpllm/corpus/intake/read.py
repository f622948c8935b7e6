"""From a span of a file to its items, by the file's name."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from pyjpllm.corpus import inputs
from pyjpllm.corpus.faults import Fault
from pyjpllm.corpus.intake.bounded import Bounds, os_fault
from pyjpllm.corpus.intake.html import Extraction, read_html
from pyjpllm.corpus.intake.item import Item, Span
from pyjpllm.corpus.intake.mo import read_mo
from pyjpllm.corpus.intake.pairs import read_pair
from pyjpllm.corpus.intake.parquet import read_parquet
from pyjpllm.corpus.intake.text import read_json_lines, read_plain_text
from pyjpllm.corpus.intake.warc import read_warc

_WARC = (".warc", ".warc.gz", ".wet", ".wet.gz")
_HTML = (".html", ".html.gz", ".htm")
_MAIN = Extraction()
SUFFIXES = (*inputs.SUFFIXES, *_WARC, *_HTML, ".mo")
"""What the pipeline reads."""


def read_span(span: Span, bounds: Bounds, extraction: Extraction = _MAIN) -> Iterator[Item]:
    """The items of a span, in their order; the same ones each time. Whatever is in the file, nothing is raised."""
    try:
        yield from _read(span, bounds, extraction)
    except MemoryError:
        raise  # says nothing about the file
    except Exception as error:
        yield Fault("reader-failed", str(span.path), 0, f"{type(error).__name__}: {error}")


def _read(span: Span, bounds: Bounds, extraction: Extraction) -> Iterator[Item]:
    path = str(span.path)
    try:
        status = span.path.stat()
    except OSError as error:
        fault = os_fault(error)
        yield Fault(fault.reason, path, 0, fault.detail)
        return
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device would wait, or never end
        yield Fault("unreadable-file", path, 0, "is no file")
        return
    if status.st_size == 0:
        yield Fault("empty-file", path, 0, "no byte in it")
        return
    suffix = inputs.suffix_of(span.path, SUFFIXES)
    if span.original is not None:
        yield from read_pair(span, bounds)
        return
    if suffix == ".parquet":
        yield from read_parquet(span, bounds)
    elif suffix in _WARC:
        yield from read_warc(span, bounds, extraction)
    elif suffix in _HTML:
        yield from read_html(span, bounds, extraction)
    elif suffix == ".mo":
        yield from read_mo(span, bounds)
    elif suffix is not None and suffix.startswith(".txt"):
        yield from read_plain_text(span, bounds)
    else:
        yield from read_json_lines(span, bounds)
