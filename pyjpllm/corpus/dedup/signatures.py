"""Signature files: the band keys of documents that are kept, to compare a later corpus against.

Layout, all numbers little-endian: `JPLLMSIG`; version (u32, 1); length of the header (u32); the header, JSON in UTF-8
with the settings the keys were made with, `documents` and `columns`, padded with spaces to a multiple of 8; the columns
one after another, each `documents` keys (u64); the SHA-256 of all that.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.dedup.keyfiles import batches
from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write

SUFFIX = ".sig"
_MAGIC = b"JPLLMSIG"
_FIXED = len(_MAGIC) + 8
_DIGEST = 32
_PIECE = 1 << 20


def write_signatures(path: Path, settings: Mapping[str, Any], columns: Sequence[NDArray[np.uint64]]) -> None:
    """Write ``columns`` (each [documents]), whole or not at all."""
    documents = len(columns[0])
    header = json.dumps({**settings, "documents": documents, "columns": len(columns)}, sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    digest = hashlib.sha256()
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        for piece in _pieces(header, columns):
            digest.update(piece)
            file.write(piece)
        file.write(digest.digest())


def _pieces(header: bytes, columns: Sequence[NDArray[np.uint64]]) -> Iterator[bytes]:
    yield _MAGIC + np.array([1, len(header)], "<u4").tobytes() + header
    for column in columns:
        for part in batches(len(column), _PIECE):
            yield column[part].astype("<u8").tobytes()


class SignatureFile:
    """A signature file, checked whole when it is opened."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Raises UserError for a file that is none, is damaged, or was made with other settings."""
        self.path = path
        try:
            self._read(settings)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None

    def _read(self, settings: Mapping[str, Any]) -> None:
        path = self.path
        with open(path, "rb") as file:
            fixed, header = _head(file, path)
            digest = hashlib.sha256(fixed + header)
            left = path.stat().st_size - len(fixed) - len(header) - _DIGEST
            while left > 0 and (piece := file.read(min(left, 8 * _PIECE))):
                digest.update(piece)
                left -= len(piece)
            if left != 0 or file.read() != digest.digest():
                raise UserError(f"{path}: damaged: its checksum does not fit; write it again")
        found = json.loads(header)
        self.documents: int = found.pop("documents")
        self.columns: int = found.pop("columns")
        _check_settings(path, found, settings)
        self._start = len(fixed) + len(header)

    def share(self, column: int, rank: int, size: int) -> Iterator[NDArray[np.uint64]]:
        """The part of ``column`` that is rank ``rank``'s of ``size``, in pieces."""
        first, last = rank * self.documents // size, (rank + 1) * self.documents // size
        with open(self.path, "rb") as file:
            file.seek(self._start + 8 * (column * self.documents + first))
            for part in batches(last - first, _PIECE):
                yield np.fromfile(file, "<u8", part.stop - part.start).astype(np.uint64)


def _head(file: BinaryIO, path: Path) -> tuple[bytes, bytes]:
    """The part of fixed length, and the header, as far as it is there."""
    fixed = file.read(_FIXED)
    if not fixed.startswith(_MAGIC) or len(fixed) < _FIXED:
        raise UserError(f"{path}: not a signature file (written by a dedup step with `save`)")
    version, length = np.frombuffer(fixed[len(_MAGIC) :], "<u4").tolist()
    if version != 1:
        raise UserError(f"{path}: signature file of version {version}; this pyjpllm reads version 1")
    return fixed, file.read(max(0, min(length, path.stat().st_size - _FIXED - _DIGEST)))


def _check_settings(path: Path, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for name in sorted((found.keys() | settings.keys()) - {"documents", "columns"}):
        if found.get(name) != settings.get(name):
            raise UserError(
                f"{path}: made with {name} = {found.get(name)!r}, this step has {settings.get(name)!r}; "
                "documents can only be compared with the same settings"
            )


def paths_of(places: Sequence[str]) -> list[Path]:
    """The files behind ``places`` (files, or folders with such files); UserError for a place without any."""
    found: list[Path] = []
    for place in places:
        path = Path(place)
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{place}: no signature file (*{SUFFIX}) in this folder")
        found += files
    return found


def signature_files(places: Sequence[str], settings: Mapping[str, Any]) -> list[SignatureFile]:
    """The files behind ``places``, checked whole. Raises UserError as ``SignatureFile`` does."""
    return [SignatureFile(path, settings) for path in paths_of(places)]


def checksums(places: Sequence[str], settings: Mapping[str, Any]) -> dict[str, str]:
    """The checksums that the files behind ``places`` say they have. Of each only the head and the end are read, which
    is soon done before a run. Raises UserError for one that is none, or was made with other settings."""
    found = {}
    for path in paths_of(places):
        try:
            with open(path, "rb") as file:
                header = _head(file, path)[1]
                file.seek(-_DIGEST, os.SEEK_END)
                found[str(path)] = file.read().hex()
            _check_settings(path, json.loads(header), settings)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
        except ValueError:
            raise UserError(f"{path}: damaged: its header is no JSON; write it again") from None
    return found
