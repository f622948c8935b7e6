"""Documents into files: JSON Lines (plain, gzip, zstd) and Parquet, whole or not at all.

The same documents give the same bytes: gzip without a time stamp, keys in the order of the meta.
"""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import zstandard

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.inputs import suffix_of
from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write

WRITABLE = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_ROWS = 1024
# Characters of JSON Lines that wait for the stream: one call for many short documents.
_HELD = 1 << 18
# Without NaN and Infinity, which are no JSON: such a file could not be read again.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_line(document: Document) -> str:
    """A document as a line of JSON, with its end: what ``json.dumps`` makes of text and meta, without its cost for a
    short document."""
    meta = _ENCODER.encode(dict(document.meta)) if document.meta else "{}"
    return f'{{"text": {_ENCODER.encode(document.text)}, "meta": {meta}}}\n'


class DocumentWriter:
    """``with DocumentWriter(path) as writer: writer.add(document)``. The format follows from the name.

    The file appears under its name when the block ends well; after an exception nothing is there, or the old file.
    """

    def __init__(self, path: str | PathLike[str], *, level: int = 9) -> None:
        """``level``: of zstd, for JSON Lines. Raises UserError for a name that ends in none of ``WRITABLE``."""
        self.path = Path(path)
        suffix = suffix_of(self.path)
        if suffix not in WRITABLE:
            raise UserError(f"{self.path}: documents are written to {', '.join(WRITABLE)}")
        self._suffix = suffix
        self._level = level
        self._whole = contextlib.ExitStack()  # the rename
        self._open = contextlib.ExitStack()  # the streams, closed before it
        self._add: Callable[[Document], None] | None = None

    def __enter__(self) -> DocumentWriter:
        temporary = self._whole.enter_context(atomic_write(self.path))
        try:
            self._add = self._parquet(temporary) if self._suffix == ".parquet" else self._json_lines(temporary)
        except BaseException as error:
            self._whole.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def add(self, document: Document) -> None:
        """Append a document."""
        if self._add is None:
            raise ValueError("DocumentWriter is used outside its with block")
        self._add(document)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._add = None
        try:
            self._open.__exit__(kind, error, trace)
        except BaseException as problem:
            self._whole.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self._whole.__exit__(kind, error, trace)

    def _json_lines(self, temporary: Path) -> Callable[[Document], None]:
        stream: Any = self._open.enter_context(open(temporary, "wb"))  # noqa: SIM115 - the stack closes it
        if self._suffix == ".jsonl.gz":
            stream = self._open.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0))
        elif self._suffix == ".jsonl.zst":
            compressor = zstandard.ZstdCompressor(level=self._level, write_checksum=True)
            stream = self._open.enter_context(compressor.stream_writer(stream, closefd=False))

        lines: list[str] = []
        held = 0

        def flush() -> None:
            stream.write("".join(lines).encode())
            lines.clear()

        def finish(kind: type[BaseException] | None, _error: object, _trace: object) -> None:
            if kind is None:
                flush()

        self._open.push(finish)

        def add(document: Document) -> None:
            nonlocal held
            lines.append(json_line(document))
            held += len(lines[-1])
            if held >= _HELD:
                flush()
                held = 0

        return add

    def _parquet(self, temporary: Path) -> Callable[[Document], None]:
        import pyarrow
        import pyarrow.parquet

        schema = pyarrow.schema([("text", pyarrow.large_string()), ("meta", pyarrow.string())])
        writer = self._open.enter_context(pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd"))
        rows: list[dict[str, str]] = []

        def flush() -> None:
            if rows:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
                rows.clear()

        def finish(kind: type[BaseException] | None, _error: object, _trace: object) -> None:
            if kind is None:
                flush()

        self._open.push(finish)

        def add(document: Document) -> None:
            rows.append({"text": document.text, "meta": _ENCODER.encode(dict(document.meta))})
            if len(rows) >= _ROWS:
                flush()

        return add
