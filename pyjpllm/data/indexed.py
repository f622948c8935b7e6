"""Token files in Megatron's indexed format (MMapIndexedDataset, version 1): `PREFIX.bin` and `PREFIX.idx`.

PREFIX.bin   the token ids of all documents, one after another, little-endian
PREFIX.idx   b"MMIDIDX\\0\\0", uint64 version (1), uint8 dtype code, uint64 number of sequences, uint64 length of the
             document index, then int32 sizes[sequences] (tokens), int64 pointers[sequences] (byte offsets into .bin),
             int64 document index (document d is the sequences index[d] .. index[d + 1] - 1)

Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py. Files that Megatron wrote are read as they are.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjpllm.errors import UserError, nearest
from pyjpllm.files import atomic_write

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
# Megatron's dtype codes; 6 and 7 are floating point and hold no tokens.
_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_CODES = {"<u2": 8, "<i4": 4}


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """The type that ids below ``vocab_size`` are stored in: uint16 under 65,500 as Megatron has it, else int32."""
    return np.dtype("<u2") if vocab_size < 65500 else np.dtype("<i4")


def bin_path(prefix: str | os.PathLike[str]) -> Path:
    """``PREFIX.bin``. A suffix in the prefix itself is kept (`web.2024` -> `web.2024.bin`)."""
    return Path(f"{os.fspath(prefix)}.bin")


def idx_path(prefix: str | os.PathLike[str]) -> Path:
    """``PREFIX.idx``."""
    return Path(f"{os.fspath(prefix)}.idx")


@dataclass(frozen=True)
class Index:
    """What `PREFIX.idx` says, checked: where each document lies in `PREFIX.bin`.

    ``sizes`` int32 [documents] tokens, ``pointers`` int64 [documents] byte offsets, ``dtype`` of the ids.
    """

    prefix: str
    dtype: np.dtype[np.generic]
    sizes: NDArray[np.int32]
    pointers: NDArray[np.int64]

    @property
    def num_documents(self) -> int:
        """Documents in the corpus."""
        return len(self.sizes)

    @property
    def num_tokens(self) -> int:
        """Tokens in the corpus."""
        return int(self.sizes.sum(dtype=np.int64))


def read_index(prefix: str | os.PathLike[str]) -> Index:
    """Read and check ``PREFIX.idx`` against itself and against the size of ``PREFIX.bin``.

    Sequences of one document are joined. Raises UserError, naming the file, when a file is missing, is no index, is
    truncated, or points beyond the end of ``PREFIX.bin``.
    """
    path, tokens = idx_path(prefix), bin_path(prefix)
    for file in (path, tokens):
        if not file.is_file():
            raise UserError(f"{file}: no such token file{_nearest_prefix(file)}")
    length = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(_HEADER.size)
        if head[: len(MAGIC)] != MAGIC[: len(head)] or not head:
            raise UserError(f"{path}: not an index of token files (it does not begin with 'MMIDIDX')")
        if len(head) < _HEADER.size:
            raise UserError(f"{path}: truncated: {length} bytes are less than its header")
        _, version, code, sequences, documents = _HEADER.unpack(head)
        if version != VERSION:
            raise UserError(f"{path}: version {version} of the indexed format; allowed: {VERSION}")
        if code not in _DTYPES:
            raise UserError(f"{path}: dtype code {code} holds no token ids; allowed: {', '.join(map(str, _DTYPES))}")
        expected = _HEADER.size + 12 * sequences + 8 * documents
        if length < expected:
            raise UserError(f"{path}: truncated: {length} bytes, its header promises {expected}")
        if sequences and length == expected + sequences:
            raise UserError(f"{path}: a multimodal index (it has sequence modes); only text is read")
        if length > expected:
            raise UserError(f"{path}: {length} bytes, its header promises {expected}; the file is damaged")
        sizes = np.fromfile(stream, dtype="<i4", count=sequences)
        pointers = np.fromfile(stream, dtype="<i8", count=sequences)
        borders = np.fromfile(stream, dtype="<i8", count=documents)
    dtype = np.dtype(_DTYPES[code])
    _check_layout(path, tokens, dtype, sizes, pointers, borders)
    return _join_sequences(str(os.fspath(prefix)), path, dtype, sizes, pointers, borders)


def _check_layout(
    path: Path,
    tokens: Path,
    dtype: np.dtype[np.generic],
    sizes: NDArray[np.int32],
    pointers: NDArray[np.int64],
    borders: NDArray[np.int64],
) -> None:
    """Sizes and pointers lie inside the .bin file; the document index is a partition of the sequences."""
    if len(sizes) and (int(sizes.min()) < 0 or int(pointers.min()) < 0):
        raise UserError(f"{path}: a negative size or pointer; the file is damaged")
    if len(borders) == 0 or borders[0] != 0 or borders[-1] != len(sizes) or np.any(np.diff(borders) < 0):
        raise UserError(f"{path}: its document index does not cover its {len(sizes)} sequences; the file is damaged")
    available = tokens.stat().st_size
    if len(sizes) and int(pointers.max()) > available:  # before a sum that might be beyond int64
        raise UserError(f"{tokens}: truncated: {available} bytes, {path.name} points to byte {int(pointers.max())}")
    ends = pointers + sizes.astype(np.int64) * dtype.itemsize
    needed = int(ends.max()) if len(ends) else 0
    if needed > available:
        first = int(np.argmax(ends > available))
        raise UserError(
            f"{tokens}: truncated: {available} bytes, {path.name} points up to byte {needed} "
            f"(sequence {first} is the first beyond the end)"
        )


def _join_sequences(
    prefix: str,
    path: Path,
    dtype: np.dtype[np.generic],
    sizes: NDArray[np.int32],
    pointers: NDArray[np.int64],
    borders: NDArray[np.int64],
) -> Index:
    """One size and one pointer a document, from those of its sequences."""
    if len(borders) == len(sizes) + 1 and np.array_equal(borders, np.arange(len(borders))):
        return Index(prefix, dtype, sizes, pointers)
    inside = np.ones(len(sizes), dtype=bool)
    inside[borders[:-1][borders[:-1] < len(sizes)]] = False
    follows = np.ones(len(sizes), dtype=bool)
    follows[1:] = pointers[1:] == pointers[:-1] + sizes[:-1].astype(np.int64) * dtype.itemsize
    if np.any(inside & ~follows):
        where = int(np.argmax(inside & ~follows))
        raise UserError(f"{path}: sequence {where} does not follow the one before it in the same document")
    totals = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    lengths = totals[borders[1:]] - totals[borders[:-1]]
    if len(lengths) and int(lengths.max()) > np.iinfo(np.int32).max:
        raise UserError(f"{path}: a document of {int(lengths.max())} tokens; at most {np.iinfo(np.int32).max}")
    starts = np.concatenate([pointers, [0]])[borders[:-1]]
    return Index(prefix, dtype, lengths.astype(np.int32), starts)


def _nearest_prefix(file: Path) -> str:
    """``"; did you mean 'x'?"`` from the files of the same kind beside it, or what the folder lacks."""
    if not file.parent.is_dir():
        return f"; the folder {str(file.parent)!r} does not exist"
    match = nearest(file.name, sorted(p.name for p in file.parent.glob(f"*{file.suffix}")))
    return f"; did you mean {str(file.with_name(match))!r}?" if match else ""


class TokenFile:
    """Reads spans of ids out of ``PREFIX.bin``; opened at the first read, safe to use from several threads."""

    def __init__(self, index: Index, vocab_size: int) -> None:
        self.index = index
        self.vocab_size = vocab_size
        self.path = bin_path(index.prefix)
        self._descriptor: int | None = None

    def read(self, document: int, start: int, count: int) -> NDArray[np.int64]:
        """Ids ``start`` .. ``start + count - 1`` of a document, int64 [count].

        Raises UserError naming the file when an id is outside the vocabulary or the file ends early.
        """
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        width = self.index.dtype.itemsize
        offset, length = int(self.index.pointers[document]) + start * width, count * width
        pieces: list[bytes] = []
        while length and (piece := os.pread(self._descriptor, length, offset)):
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        if length:
            raise UserError(f"{self.path}: truncated while it was read: document {document} ends beyond the file")
        ids = np.frombuffer(b"".join(pieces), dtype=self.index.dtype).astype(np.int64)
        if count and not (int(ids.min()) >= 0 and int(ids.max()) < self.vocab_size):
            wrong = int(ids[(ids < 0) | (ids >= self.vocab_size)][0])
            raise UserError(
                f"{self.path}: token id {wrong} in document {document} is outside the vocabulary of "
                f"{self.vocab_size}; was it encoded with another tokenizer?"
            )
        return ids

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class IndexedDataset:
    """A corpus of token files as a sequence of documents: ``len(dataset)``, ``dataset[i]`` -> int64 ids."""

    def __init__(self, prefix: str | os.PathLike[str], vocab_size: int | None = None) -> None:
        """``vocab_size``: ids are checked against it; None takes any id that is not negative."""
        self.index = read_index(prefix)
        self._file = TokenFile(self.index, np.iinfo(np.int64).max if vocab_size is None else vocab_size)

    def __len__(self) -> int:
        return self.index.num_documents

    def __getitem__(self, document: int) -> NDArray[np.int64]:
        if not -len(self) <= document < len(self):
            raise IndexError(f"document {document} of {len(self)}")
        document %= len(self)
        return self._file.read(document, 0, int(self.index.sizes[document]))

    def close(self) -> None:
        """Close the underlying file."""
        self._file.close()


class IndexedWriter:
    """Writes ``PREFIX.bin`` and ``PREFIX.idx``; both appear whole when the ``with`` block ends well, or not at all.

    The index is renamed last, and an old one is removed first: a pair with an index is always a pair that fits.
    """

    def __init__(self, prefix: str | os.PathLike[str], vocab_size: int) -> None:
        if vocab_size < 1:
            raise ValueError(f"vocab_size {vocab_size} < 1")
        self.prefix = os.fspath(prefix)
        self.vocab_size = vocab_size
        self.dtype = token_dtype(vocab_size)
        self._sizes: list[NDArray[np.int32]] = []
        self._stack = contextlib.ExitStack()
        self._stream: BinaryIO | None = None

    def __enter__(self) -> IndexedWriter:
        self._temporary = self._stack.enter_context(_before_rename(bin_path(self.prefix), idx_path(self.prefix)))
        # Not in the stack: it must be closed before atomic_write's fsync and rename.
        self._stream = open(self._temporary, "wb", buffering=1 << 20)
        return self

    def add(self, ids: ArrayLike) -> None:
        """Append one document, ids of shape [tokens]. Raises ValueError for an id outside the vocabulary."""
        array = np.asarray(ids, dtype=np.int64)
        self.add_many(array, np.array([array.size]))

    def add_many(self, ids: ArrayLike, sizes: ArrayLike) -> None:
        """Append several documents at once: their ids one after another, and the tokens of each."""
        if self._stream is None:
            raise ValueError("IndexedWriter is used outside its with block")
        flat, lengths = np.asarray(ids), np.asarray(sizes, dtype=np.int64)
        if flat.ndim != 1 or int(lengths.sum()) != flat.size:
            raise ValueError(f"{flat.size} ids of {flat.ndim} dimensions for sizes that sum to {int(lengths.sum())}")
        if flat.size and (int(flat.min()) < 0 or int(flat.max()) >= self.vocab_size):
            raise ValueError(f"token ids {int(flat.min())}..{int(flat.max())} outside the vocabulary {self.vocab_size}")
        self._stream.write(flat.astype(self.dtype).tobytes())
        self._sizes.append(lengths.astype(np.int32))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is None:
            return
        self._stream.close()
        self._stream = None
        self._stack.__exit__(kind, error, trace)  # fsyncs and renames .bin, or removes it after an exception
        if error is None:
            sizes = np.concatenate([np.zeros(0, np.int32), *self._sizes])
            with atomic_write(idx_path(self.prefix)) as temporary:
                temporary.write_bytes(index_bytes(sizes, self.dtype))


@contextlib.contextmanager
def _before_rename(target: Path, remove_first: Path) -> Iterator[Path]:
    """atomic_write of ``target`` that removes ``remove_first`` once the new content is complete."""
    with atomic_write(target) as temporary:
        yield temporary
        remove_first.unlink(missing_ok=True)


def index_bytes(sizes: NDArray[np.int32], dtype: np.dtype[np.generic]) -> bytes:
    """The bytes of ``PREFIX.idx`` for documents of these sizes, each one sequence, laid one after another."""
    lengths = sizes.astype(np.int64) * dtype.itemsize
    pointers = np.cumsum(lengths) - lengths
    borders = np.arange(len(sizes) + 1, dtype="<i8")
    header = _HEADER.pack(MAGIC, VERSION, _CODES[dtype.newbyteorder("<").str], len(sizes), len(borders))
    return b"".join([header, sizes.astype("<i4").tobytes(), pointers.astype("<i8").tobytes(), borders.tobytes()])
