"""What a shard writes: documents in files of limited size, and lines about what was set aside. All of it appears when
the shard is done, or not at all.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.faults import Fault
from pyjpllm.corpus.writers import DocumentWriter
from pyjpllm.files import atomic_write

# zstd's level 9 takes 280 us for a page of 7 KB, a fifth of what reading it takes; 3 takes 50 and makes it 16% larger.
_LEVEL = 3


class Writer(Protocol):
    """Writes documents into a file, which appears when the ``with`` block ends well, or not at all."""

    def __enter__(self) -> Writer: ...

    def add(self, document: Document) -> None:
        """Append a document."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class TokenSink(Protocol):
    """Where documents become tokens. Tokenizers live on a floor above this room, so whoever starts a run that writes
    tokens hands one in (``pyjpllm.data.token_output.TokenOutput``). It goes to other processes: it can be pickled."""

    @property
    def fingerprint(self) -> str:
        """Tells tokenizers apart: a run goes on only with the same."""
        ...

    def writer(self, prefix: Path, /) -> Writer:
        """Writes one shard's documents to the token files ``prefix``."""
        ...

    def join(self, prefixes: Sequence[Path], target: Path, /, *, characters: int, size: int) -> dict[str, Any]:
        """The token files ``target`` out of those of shards, in their order, leaving out those that are not there.

        Where ``target`` is complete already, nothing is done. ``characters`` and ``size`` (bytes of UTF-8) are those of
        the text. Returns what the report says of them, with ``tokens`` and ``characters_per_token``.
        """
        ...


def _text_writer(path: Path) -> Writer:
    return DocumentWriter(path, level=_LEVEL)


class SplitWriter:
    """``with SplitWriter(name, file_mib) as writer: writer.add(document)``: into name(0), name(1), ... with about
    ``file_mib`` MiB of text each; None: all into name(0). Without a document no file is made."""

    def __init__(
        self, name: Callable[[int], Path], file_mib: int | None, make: Callable[[Path], Writer] = _text_writer
    ) -> None:
        self._name = name
        self._make = make
        self._limit = None if file_mib is None else file_mib << 20
        self._part = 0
        self._size = 0
        self._writer: Writer | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> SplitWriter:
        return self

    def begin(self) -> None:
        """Make the next file, also if no document follows."""
        self._writer = self._open.enter_context(self._make(self._name(self._part)))
        self._part += 1
        self._size = 0

    def add(self, document: Document, size: int) -> None:
        """Write one more document, of ``size`` bytes in UTF-8."""
        if self._writer is not None and self._limit is not None and self._size and self._size + size > self._limit:
            self._open.close()
            self._writer = None
        if self._writer is None:
            self.begin()
        assert self._writer is not None
        self._writer.add(document)
        self._size += size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)


class FaultWriter:
    """Lines of JSON about what was set aside; without any no file is made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> FaultWriter:
        return self

    def add(self, fault: Fault) -> None:
        """Write one more line."""
        if self._stream is None:
            temporary = self._open.enter_context(atomic_write(self._path))
            self._stream = self._open.enter_context(open(temporary, "wb"))  # noqa: SIM115 - the stack closes it
        line = json.dumps(asdict(fault), ensure_ascii=False)
        # Names of files need not be UTF-8, and what stages say about documents need not be text.
        self._stream.write(line.encode("utf-8", "backslashreplace") + b"\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
