"""JSON Lines and plain text for the pipeline: what is wrong is set aside, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.faults import Fault, Skip, StreamError, excerpt_of
from pyjpllm.corpus.intake.bounded import Bounds, Line, lines, unpacked
from pyjpllm.corpus.intake.item import Item, Span
from pyjpllm.corpus.readers import RecordError, decode, parse_json_line

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_json_lines(span: Span, bounds: Bounds) -> Iterator[Item]:
    """The documents of (a part of) a JSON Lines file, plain, gzip or zstd."""
    path = str(span.path)
    begin = max(0, span.start - 1)  # one byte before: is the first byte of the span that of a line?
    at = begin
    try:
        found = lines(unpacked(span.path, bounds, begin), bounds.document, begin)
        if span.start:
            next(found, None)
        for line in found:
            if span.end is not None and line.at >= span.end:
                return
            at = line.at
            if at == 0 and line.data.startswith(_UTF16):
                detail = "the file begins with the byte order mark of UTF-16; convert it, e.g. with iconv"
                yield Fault("utf-16", path, 0, detail, excerpt_of(line.data))
                return
            yield _line(line, path, bounds)
    except StreamError as error:
        yield Fault(error.reason, path, error.at, f"{error.detail} (after the line at {at})" if at else error.detail)


def _line(line: Line, path: str, bounds: Bounds) -> Item:
    if line.too_long:
        detail = f"a line of more than input.max_document_mib = {bounds.document >> 20}"
        return Fault("too-long", path, line.at, detail, excerpt_of(line.data))
    if not line.data.strip():
        return Skip("blank-line")
    if b"\0" in line.data:
        return Fault("nul-bytes", path, line.at, _holes(line.data), excerpt_of(line.data))
    try:
        document = parse_json_line(line.data, path)
    except RecordError as error:
        return Fault(error.reason, path, line.at, error.what, excerpt_of(line.data))
    return document if document.text.strip() else Fault("empty-text", path, line.at, "text is empty")


def _holes(data: bytes) -> str:
    return f"{data.count(0)} NUL bytes"


def read_whole(path: Path, bounds: Bounds) -> bytes | Fault:
    """All bytes of a file, unpacked; a Fault where that is impossible or too much."""
    parts: list[bytes] = []
    held = 0
    try:
        for chunk in unpacked(path, bounds):
            held += len(chunk)
            if held > bounds.document:
                detail = f"a file of more than input.max_document_mib = {bounds.document >> 20}"
                return Fault("too-long", str(path), 0, detail, excerpt_of(parts[0] if parts else chunk))
            parts.append(chunk)
    except StreamError as error:
        return Fault(error.reason, str(path), error.at, error.detail)
    return b"".join(parts)


def read_plain_text(span: Span, bounds: Bounds) -> Iterator[Item]:
    """A file as one document."""
    path = str(span.path)
    data = read_whole(span.path, bounds)
    if isinstance(data, Fault):
        yield data
    elif data.startswith(_UTF16):
        detail = "the file begins with the byte order mark of UTF-16; convert it, e.g. with iconv"
        yield Fault("utf-16", path, 0, detail, excerpt_of(data))
    elif b"\0" in data:
        yield Fault("nul-bytes", path, data.index(0), _holes(data), excerpt_of(data))
    else:
        try:
            text = decode(data, path)
        except RecordError as error:
            yield Fault(error.reason, path, 0, error.what, excerpt_of(data))
            return
        yield Document(text) if text.strip() else Fault("empty-text", path, 0, "nothing but white space")
