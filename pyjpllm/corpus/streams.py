"""Lines of plain, gzip and zstd files; a damaged or cut file is an error that names it, never a shorter corpus."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

from pyjpllm.errors import UserError

_CHUNK = 1 << 20


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file without their ends. Raises UserError when the compressed stream is damaged or cut short."""
    rest = b""
    number = 0
    try:
        for chunk in _chunks(path):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                number += 1
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise UserError(f"{path}: damaged or cut short after line {number} ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if rest:
        yield rest


def read_whole(path: Path) -> bytes:
    """The content of a file, decompressed. Raises UserError when it is damaged or cut short."""
    try:
        return b"".join(_chunks(path))
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise UserError(f"{path}: damaged or cut short ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _chunks(path: Path) -> Iterator[bytes]:
    name = path.name.lower()
    if name.endswith(".gz"):
        with gzip.open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    elif name.endswith(".zst"):
        yield from _zstd_chunks(path)
    else:
        with open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    """Frame by frame, since zstandard's stream reader takes a cut file for a short one."""
    factory = zstandard.ZstdDecompressor()
    frame = None
    with open(path, "rb") as stream:
        while data := stream.read(_CHUNK):
            while data:
                frame = frame or factory.decompressobj()
                if out := frame.decompress(data):
                    yield out
                data = b""
                if frame.eof:
                    data, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("the zstd stream ends in the middle of a frame")
