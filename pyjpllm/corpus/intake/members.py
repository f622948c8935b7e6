"""A WARC file's bytes: of a plain one all of them, of a packed one those of each gzip member, in bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from pyjpllm.corpus.faults import Fault, StreamError, excerpt_of
from pyjpllm.corpus.intake.bounded import CHUNK, Bounds, Ratio

BEGIN = b"WARC/"
"""What a record begins with."""
_MEMBER = b"\x1f\x8b\x08"
# An empty line that ends otherwise, or the next record.
_NOT_A_HEAD = (b"\n\r\n", b"\n\n", b"\n" + BEGIN)
# zlib copies what lies behind a member each time one ends, so no more than a few pages are given to it.
_PIECE = 1 << 16


class ByteStream:
    """A stream of bytes that can be read by lines and lengths, and pushed back.

    ``at``: where it begins on the disk. ``packed``: it comes out of gzip, so offsets within it are not the disk's.
    """

    def __init__(self, chunks: Iterator[bytes], at: int, packed: bool) -> None:
        self._chunks = chunks
        self._buffer = b""
        self._position = 0  # of the next byte, in the buffer
        self._consumed = 0  # bytes before the buffer
        self._begin = at
        self.packed = packed
        self.error: StreamError | None = None
        """Why the stream ended, if it did not end well."""

    @property
    def at(self) -> int:
        """Where the next byte lies on the disk; of packed bytes, their member."""
        return self._begin if self.packed else self._begin + self._consumed + self._position

    def _more(self) -> bool:
        try:
            chunk = next(self._chunks, b"")
        except StreamError as error:
            self.error, chunk = error, b""
        self._consumed += self._position
        self._buffer = self._buffer[self._position :] + chunk
        self._position = 0
        return bool(chunk)

    def line(self, limit: int) -> bytes:
        """The next line with its end; without one at the end of the stream or where it is longer than ``limit``."""
        while (end := self._buffer.find(b"\n", self._position)) < 0:
            if len(self._buffer) - self._position > limit or not self._more():
                end = len(self._buffer) - 1
                break
        end = min(end + 1, self._position + limit)
        line = self._buffer[self._position : end]
        self._position = end
        return line

    def lines_to_blank(self, limit: int) -> list[bytes] | None:
        """The lines before the next empty one, without their newlines; goes behind the empty one.

        None, and nothing is read, where they are not all at hand within ``limit`` bytes or their ends are mixed.
        """
        first = self._position
        last = self._buffer.find(b"\r\n\r\n", first, first + limit)
        block = self._buffer[first : max(last, first)]
        if last < 0 or block.startswith((b"\n", b"\r\n")) or any(each in block for each in _NOT_A_HEAD):
            return None
        self._position = last + 4
        return block.split(b"\n")

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer at the end of the stream."""
        parts: list[bytes] = []
        while size:
            if self._position == len(self._buffer) and not self._more():
                break
            part = self._buffer[self._position : self._position + size]
            self._position += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        """Leave out ``size`` bytes; returns how many there were."""
        left = size
        while left:
            if self._position == len(self._buffer) and not self._more():
                break
            step = min(left, len(self._buffer) - self._position)
            self._position += step
            left -= step
        return size - left

    def push_back(self, data: bytes) -> None:
        """Let ``data``, which was read last, be read again."""
        self._buffer = data + self._buffer[self._position :]
        self._consumed -= len(data) - self._position
        self._position = 0

    def find_record(self) -> bool:
        """From the beginning of a line go on to the next one that begins a record; False at the end of the stream."""
        while len(self._buffer) - self._position < len(BEGIN) and self._more():
            pass
        if self._buffer.startswith(BEGIN, self._position):
            return True
        while True:
            found = self._buffer.find(b"\n" + BEGIN, self._position)
            if found >= 0:
                self._position = found + 1
                return True
            self._position = max(self._position, len(self._buffer) - len(BEGIN))
            if not self._more():
                self._position = len(self._buffer)
                return False

    def drain(self) -> None:
        """Read to the end, so that what is wrong with it comes out."""
        while self._more():
            self._position = len(self._buffer)


def plain(stream: BinaryIO) -> Iterator[ByteStream | Fault]:
    """A file that is not packed."""
    chunks = iter(lambda: stream.read(CHUNK), b"")
    yield ByteStream(chunks, 0, packed=False)


def gzip_members(stream: BinaryIO, path: str, bounds: Bounds) -> Iterator[ByteStream | Fault]:
    """The gzip members of a file. Behind a damaged one: the next that unpacks to the beginning of a record."""
    source = _Source(stream)
    while source.fill(len(_MEMBER)):
        at = source.at
        if source.peek(1) == b"\0" and source.only_zeros():
            return
        if source.peek(len(_MEMBER)) != _MEMBER:
            head = source.peek(64)
            yield Fault("bad-gzip" if at == 0 else "trailing-bytes", path, at, "no gzip member", excerpt_of(head))
            if not source.find_member():
                return
            continue
        member = ByteStream(source.member(bounds), at, packed=True)
        yield member
        member.drain()
        if member.error is not None:
            yield Fault(member.error.reason, path, at, member.error.detail)
            if member.error.reason == "cut-gzip":
                return
            source.seek(at + 1)
            if not source.find_member():
                return
    if source.peek(1):
        yield Fault("trailing-bytes", path, source.at, "no gzip member", excerpt_of(source.peek(2)))


class _Source:
    """The packed bytes of a file, with one chunk or two in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self.at = 0
        """Where the buffer begins in the file."""

    def fill(self, size: int) -> bool:
        """Have ``size`` bytes at hand; False where the file ends before."""
        while len(self._buffer) < size:
            chunk = self._stream.read(_PIECE)
            if not chunk:
                return False
            self._buffer += chunk
        return True

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay."""
        self.fill(size)
        return self._buffer[:size]

    def seek(self, at: int) -> None:
        """Go to a place in the file."""
        if self.at <= at <= self.at + len(self._buffer):
            self._buffer = self._buffer[at - self.at :]
        else:
            self._stream.seek(at)
            self._buffer = b""
        self.at = at

    def only_zeros(self) -> bool:
        """Nothing but zeros up to the end? (Goes there.)"""
        here = self.at
        while self.fill(1):
            if self._buffer.strip(b"\0"):
                self.seek(here)
                return False
            self.seek(self.at + len(self._buffer))
        return True

    def find_member(self) -> bool:
        """Go on to the next bytes that unpack to the beginning of a record; False where there are none."""
        while True:
            found = self._buffer.find(_MEMBER)
            if found < 0:
                keep = min(len(self._buffer), len(_MEMBER) - 1)
                self.seek(self.at + len(self._buffer) - keep)
                if not self.fill(keep + 1):
                    return False
                continue
            self.seek(self.at + found)
            try:
                head = zlib.decompressobj(wbits=31).decompress(self.peek(1 << 12), len(BEGIN))
            except zlib.error:
                head = b""
            if head == BEGIN:
                return True
            self.seek(self.at + 1)

    def member(self, bounds: Bounds) -> Iterator[bytes]:
        """The content of the member that begins here; goes to its end. Raises StreamError."""
        inflate = zlib.decompressobj(wbits=31)
        ratio = Ratio(bounds)
        while not inflate.eof:
            if not self.fill(1):
                raise StreamError("cut-gzip", self.at, "the file ends inside a gzip member")
            data = self._buffer
            try:
                out = inflate.decompress(data, CHUNK)
            except zlib.error as error:
                raise StreamError("bad-gzip", self.at, str(error)) from None
            rest = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            ratio.packed += len(data) - len(rest)
            self.at += len(data) - len(rest)
            self._buffer = rest
            if out:
                ratio.came_out(len(out))
                yield out
