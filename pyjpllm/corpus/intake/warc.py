"""WARC and WET files, plain or gzip, record by record in bounded memory (ISO 28500:2017, "WARC File Format 1.1").

Made for damage: after a broken record or gzip member reading goes on with the next one that begins like a record.
Offsets are those of CDX indexes: where the record, or its gzip member, begins in the file as it lies on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.faults import Fault, Skip, excerpt_of
from pyjpllm.corpus.intake.bounded import Bounds, os_fault
from pyjpllm.corpus.intake.html import Extraction, document_of
from pyjpllm.corpus.intake.http import HttpError, response_page
from pyjpllm.corpus.intake.item import Item, Span
from pyjpllm.corpus.intake.members import BEGIN, ByteStream, gzip_members, plain

_HEAD_LIMIT = 1 << 16
_FIELDS = (b"warc-type", b"content-type", b"warc-target-uri", b"warc-date", b"content-length")


def read_warc(span: Span, bounds: Bounds, extraction: Extraction) -> Iterator[Item]:
    """The pages of a WARC file (responses and resources) or the texts of a WET file (conversions)."""
    path = str(span.path)
    try:
        with open(span.path, "rb") as stream:
            parts = gzip_members(stream, path, bounds) if span.path.name.lower().endswith(".gz") else plain(stream)
            for part in parts:
                if isinstance(part, Fault):
                    yield part
                else:
                    yield from _records(part, path, bounds, extraction)
    except OSError as error:
        fault = os_fault(error)
        yield Fault(fault.reason, path, 0, fault.detail)


@dataclass(frozen=True)
class _Record:
    kind: str
    url: str
    date: str
    content_type: str
    length: int
    at: int


def _records(stream: ByteStream, path: str, bounds: Bounds, extraction: Extraction) -> Iterator[Item]:
    """The records of a plain file, or of one gzip member."""
    while True:
        at = stream.at
        line = stream.line(_HEAD_LIMIT)
        while line in (b"\r\n", b"\n"):
            at = stream.at
            line = stream.line(_HEAD_LIMIT)
        if not line:
            return
        record = _head(stream, line, path, at)
        if isinstance(record, Fault):
            if stream.error is None:  # else the stream's own fault says it
                yield record
            if not stream.find_record():
                return
            continue
        if record.length > bounds.document or not _wanted(record):
            missing = record.length - stream.skip(record.length)
            if _wanted(record):
                detail = f"a record of {record.length} bytes; input.max_document_mib = {bounds.document >> 20}"
                item: Item = Fault("too-long", path, at, f"{detail} ({record.url})")
            else:
                item = Skip("record-kind")
            body = b""
        else:
            body = stream.read(record.length)
            missing = record.length - len(body)
            item = Skip("record-kind")  # until the end of the record is seen
        if missing or not _ends(stream):
            if stream.error is None:
                yield _wrong_length(record, path, missing, stream)
            stream.push_back(body)  # a length that is too large has swallowed the next record
            if not stream.find_record():
                return
            continue
        yield _item(record, body, path, bounds, extraction) if body else item


def _head(stream: ByteStream, line: bytes, path: str, at: int) -> _Record | Fault:
    if not line.startswith(BEGIN):
        return Fault("bad-warc-header", path, at, "no record begins here", excerpt_of(line))
    lines = stream.lines_to_blank(_HEAD_LIMIT)
    if lines is None:
        lines = []
        size = 0
        while (field := stream.line(_HEAD_LIMIT)) not in (b"\r\n", b"\n"):
            size += len(field)
            if not field.endswith(b"\n") or size > _HEAD_LIMIT:
                return Fault("bad-warc-header", path, at, "the head of the record does not end", excerpt_of(line))
            lines.append(field)
    fields = dict.fromkeys(_FIELDS, b"")
    for field in lines:
        name, colon, value = field.partition(b":")
        if not colon and not field.startswith((b" ", b"\t")):
            return Fault("bad-warc-header", path, at, "a line of the head has no colon", excerpt_of(field))
        name = name.strip().lower()
        if name in fields:
            fields[name] = value.strip()
    kind, content_type, url, date, length = (value.decode("utf-8", "replace") for value in fields.values())
    if not (length.isascii() and length.isdigit() and len(length) < 16):
        what = f"Content-Length {length!r} is no number" if length else "there is no Content-Length"
        return Fault("bad-warc-length", path, at, what, excerpt_of(line))
    return _Record(kind.lower(), url.strip("<>"), date, content_type.lower(), int(length), at)


def _wanted(record: _Record) -> bool:
    if record.kind == "response":
        return record.content_type.startswith("application/http") or record.url.startswith("http")
    return record.kind == "conversion" or (record.kind == "resource" and record.content_type.startswith("text/"))


def _ends(stream: ByteStream) -> bool:
    """Is the record followed by an empty line, the next record or the end, as it must be?"""
    end = stream.read(4)
    if end in (b"\r\n\r\n", b"", b"\r\n"):
        return True
    stream.push_back(end)
    if end.startswith(b"\n\n"):  # some writers end lines so
        stream.skip(2)
        return True
    return end == BEGIN[:4]


def _wrong_length(record: _Record, path: str, missing: int, stream: ByteStream) -> Fault:
    if missing and not stream.packed:
        return Fault("cut-warc", path, record.at, f"the file ends {missing} bytes before the record ({record.url})")
    detail = f"Content-Length {record.length} is not the record's length ({record.url})"
    return Fault("bad-warc-length", path, record.at, detail)


def _item(record: _Record, body: bytes, path: str, bounds: Bounds, extraction: Extraction) -> Item:
    meta = {name: value for name, value in (("url", record.url), ("date", record.date)) if value}
    if record.kind == "conversion":
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            return Fault("not-utf8", path, record.at, f"{error} ({record.url})", excerpt_of(body))
        return Document(text, meta) if text.strip() else Fault("empty-text", path, record.at, record.url)
    try:
        page = response_page(body, record.content_type, meta, bounds)
    except HttpError as error:
        return Fault(error.reason, path, record.at, f"{error.what} ({record.url})", excerpt_of(body))
    return page if isinstance(page, Skip) else document_of(replace(page, meta=meta), path, record.at, extraction)
