"""What a WARC response holds: an HTTP head and a body, unpacked (RFC 9112)."""

from __future__ import annotations

import re
import zlib
from typing import Any

from pyjpllm.corpus.faults import Skip
from pyjpllm.corpus.intake.bounded import Bounds
from pyjpllm.corpus.intake.html import Page

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")
_PAGES = ("text/html", "application/xhtml+xml", "text/plain")


class HttpError(Exception):
    """A response that cannot be taken apart. ``reason`` as in ``pyjpllm.corpus.faults.FAULTS``."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason
        self.what = what


def response_page(record: bytes, record_type: str, meta: dict[str, Any], bounds: Bounds) -> Page | Skip:
    """The page in a record's content; a Skip where it holds none. Raises HttpError."""
    if record_type.startswith("text/"):  # a resource: no HTTP around it
        return Page(record, record_type, meta) if record_type.startswith(_PAGES) else Skip("media-type")
    status = _STATUS.match(record)
    if status is None:
        raise HttpError("bad-http-header", "does not begin with an HTTP status")
    if status[1] != b"200":
        return Skip("http-status")
    end = re.search(rb"\r?\n\r?\n", record)
    if end is None:
        raise HttpError("bad-http-header", "the HTTP head does not end")
    fields = _fields(record[: end.start()])
    content_type = fields.get("content-type", "")
    body = record[end.end() :]
    # A server that says nothing: what begins with a tag is taken for a page.
    if not content_type and body.lstrip()[:1] == b"<":
        content_type = "text/html"
    if not content_type.lower().startswith(_PAGES):
        return Skip("media-type")
    return Page(_unpacked(body, fields, bounds), content_type.lower(), meta)


def _fields(head: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in head.split(b"\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields.setdefault(name.strip().lower().decode("latin-1"), value.strip().decode("latin-1"))
    return fields


def _unpacked(body: bytes, fields: dict[str, str], bounds: Bounds) -> bytes:
    """The body without chunks and compression. Crawlers often keep the head and unpack the body; then it stays."""
    if "chunked" in fields.get("transfer-encoding", "").lower() and _CHUNK_SIZE.match(body):
        body = _dechunked(body)
    coding = fields.get("content-encoding", "").lower().strip()
    if coding in ("gzip", "x-gzip") and body[:2] == b"\x1f\x8b":
        return _inflated(body, 31, bounds)
    if coding == "deflate" and body[:1] == b"\x78":
        return _inflated(body, 15, bounds)
    if coding in ("br", "zstd", "compress") and not body.lstrip().startswith(b"<"):
        raise HttpError("bad-http-body", f"Content-Encoding {coding!r} is not known here")
    return body


def _dechunked(body: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while True:
        size = _CHUNK_SIZE.match(body, at)
        if size is None:
            raise HttpError("bad-http-body", f"no chunk begins at byte {at} of the body")
        length = int(size[1], 16)
        if length == 0:
            return b"".join(parts)
        part = body[size.end() : size.end() + length]
        if len(part) < length:
            raise HttpError("bad-http-body", "the body ends inside a chunk")
        parts.append(part)
        at = size.end() + length
        at += 2 if body[at : at + 2] == b"\r\n" else 1


def _inflated(body: bytes, wbits: int, bounds: Bounds) -> bytes:
    inflate = zlib.decompressobj(wbits=wbits)
    try:
        data = inflate.decompress(body, bounds.document + 1)
    except zlib.error as error:
        raise HttpError("bad-http-body", f"the packed body is damaged: {error}") from None
    if len(data) > bounds.document:
        raise HttpError("too-long", f"the body unpacks to more than input.max_document_mib = {bounds.document >> 20}")
    if not inflate.eof:
        raise HttpError("bad-http-body", "the packed body is cut short")
    return data
