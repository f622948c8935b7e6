"""Bytes out of plain, gzip and zstd files in bounded memory: whatever is in a file, no more than a few MiB are held."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from pyjpllm.corpus.faults import StreamError

CHUNK = 1 << 20
# What comes out of one call of zstandard has no limit of its own: a block of 128 KiB may take four bytes.
_ZSTD_BITE = 1 << 10
# A file that unpacks to less than this is no bomb, whatever its ratio.
_HARMLESS = 64 << 20


@dataclass(frozen=True)
class Bounds:
    """How much of something is too much."""

    document: int = 16 << 20
    """Bytes of a line, a page, a text."""
    ratio: float = 200.0
    """Unpacked bytes for each byte of a packed file."""


def unpacked(path: Path, bounds: Bounds, start: int = 0) -> Iterator[bytes]:
    """The content of a file from byte ``start`` on, unpacked as its name says, in pieces of a few MiB at most.

    Raises StreamError where it cannot go on; what came before it is good as far as the format can tell.
    """
    name = path.name.lower()
    try:
        with open(path, "rb") as stream:
            if name.endswith(".gz"):
                yield from gunzip(stream, bounds)
            elif name.endswith(".zst"):
                yield from _unzstd(stream, bounds)
            else:
                stream.seek(start)
                while chunk := stream.read(CHUNK):
                    yield chunk
    except OSError as error:
        raise os_fault(error) from None


def os_fault(error: OSError) -> StreamError:
    """What the system says about a file, as a fault."""
    reason = "missing-file" if isinstance(error, FileNotFoundError) else "unreadable-file"
    return StreamError(reason, 0, error.strerror or str(error))


class Ratio:
    """Counts what goes into and comes out of a packed file. Raises StreamError for a bomb."""

    def __init__(self, bounds: Bounds) -> None:
        self._limit = bounds.ratio
        self.packed = 0
        self.unpacked = 0

    def came_out(self, size: int) -> None:
        """``size`` more bytes have come out."""
        self.unpacked += size
        if self.unpacked > _HARMLESS and self.unpacked > self._limit * max(1, self.packed):
            detail = f"{self.unpacked} bytes out of {self.packed}; the limit is input.max_ratio = {self._limit:g}"
            raise StreamError("zip-bomb", self.packed, detail)


def gunzip(stream: BinaryIO, bounds: Bounds) -> Iterator[bytes]:
    """All members of a gzip file, one after another; zeros behind the last one are allowed, as gzip allows them."""
    ratio = Ratio(bounds)
    member = zlib.decompressobj(wbits=31)
    data = stream.read(CHUNK)
    fresh = True  # nothing of this member has been read
    while data:
        if fresh and ratio.unpacked:
            data = data.lstrip(b"\0")
            if data and data[:1] != b"\x1f":
                raise StreamError("trailing-bytes", stream.tell() - len(data), "no gzip member begins here")
        try:
            before = len(data)
            out = member.decompress(data, CHUNK) if data else b""
        except zlib.error as error:
            raise StreamError("bad-gzip", stream.tell() - len(data), str(error)) from None
        rest = member.unused_data if member.eof else member.unconsumed_tail
        ratio.packed += before - len(rest)
        fresh = fresh and not before
        if out:
            ratio.came_out(len(out))
            yield out
        if member.eof:
            member, fresh = zlib.decompressobj(wbits=31), True
        data = rest or stream.read(CHUNK)
    if not fresh:
        raise StreamError("cut-gzip", stream.tell(), "the file ends inside a gzip member")


def _unzstd(stream: BinaryIO, bounds: Bounds) -> Iterator[bytes]:
    ratio = Ratio(bounds)
    factory = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    frame = None
    while chunk := stream.read(CHUNK):
        for start in range(0, len(chunk), _ZSTD_BITE):
            data = chunk[start : start + _ZSTD_BITE]
            ratio.packed += len(data)
            while data:
                frame = frame or factory.decompressobj()
                try:
                    out = frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise StreamError("bad-zstd", ratio.packed - len(data), str(error)) from None
                data = b""
                if frame.eof:
                    data, frame = frame.unused_data, None
                if out:
                    ratio.came_out(len(out))
                    yield out
    if frame is not None:
        raise StreamError("cut-zstd", ratio.packed, "the file ends inside a zstd frame")


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end. One that is too long has only its beginning."""

    at: int
    data: bytes
    too_long: bool = False


def lines(chunks: Iterator[bytes], limit: int, at: int = 0) -> Iterator[Line]:
    """The lines of a stream of bytes; of one that is longer than ``limit`` no more than that is held."""
    rest: list[bytes] = []
    held = 0
    begun = at  # where the line that is being gathered begins
    for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            held += end - start
            if held <= limit:
                yield Line(begun, b"".join((*rest, chunk[start:end])))
            else:
                yield Line(begun, b"".join((*rest, chunk[start:end]))[:limit], too_long=True)
            begun += held + 1
            rest, held, start = [], 0, end + 1
        if held <= limit:
            rest.append(chunk[start:])
        held += len(chunk) - start
    if held:
        yield Line(begun, b"".join(rest)[:limit], too_long=held > limit)
