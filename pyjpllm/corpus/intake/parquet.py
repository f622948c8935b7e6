"""Parquet for the pipeline: rows that are no documents are set aside, a damaged row group ends the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyjpllm.corpus.faults import Fault, excerpt_of
from pyjpllm.corpus.intake.bounded import Bounds
from pyjpllm.corpus.intake.item import Item, Span
from pyjpllm.corpus.meta import rows
from pyjpllm.corpus.readers import RecordError, nearest_key, parquet_document

_ROWS = 256


def row_groups(path: Path) -> list[int]:
    """The packed bytes of each row group; empty where the file is no Parquet."""
    import pyarrow
    import pyarrow.parquet

    try:
        meta = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError):
        return []  # reading it says what is wrong with it
    groups = (meta.row_group(number) for number in range(meta.num_row_groups))
    # A group's own total_byte_size is that of its pages unpacked.
    return [sum(group.column(c).total_compressed_size for c in range(group.num_columns)) for group in groups]


def read_parquet(span: Span, bounds: Bounds) -> Iterator[Item]:
    """The documents of (some row groups of) a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    path = str(span.path)
    try:
        file = pyarrow.parquet.ParquetFile(span.path)
    except (FileNotFoundError, PermissionError) as error:
        reason = "missing-file" if isinstance(error, FileNotFoundError) else "unreadable-file"
        yield Fault(reason, path, 0, error.strerror or str(error))
        return
    except (pyarrow.ArrowException, OSError) as error:
        yield Fault("bad-parquet", path, 0, _first_line(error))
        return
    with file:
        names = file.schema_arrow.names
        if "text" not in names:
            yield Fault("no-text", path, 0, f"no column 'text'{nearest_key(names)}")
            return
        end = file.num_row_groups if span.end is None else min(span.end, file.num_row_groups)
        number = sum(file.metadata.row_group(group).num_rows for group in range(span.start))
        for group in range(span.start, end):
            left = _rows(file, group)
            while True:
                try:
                    row = next(left, None)
                except (pyarrow.ArrowException, OSError, ValueError) as error:
                    yield Fault("bad-parquet", path, number, f"row group {group}: {_first_line(error)}")
                    break
                if row is None:
                    break
                yield _document(row, path, number, bounds)
                number += 1


def _rows(file: Any, group: int) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], use_threads=False):
        yield from rows(batch)


def _document(row: dict[str, Any], path: str, number: int, bounds: Bounds) -> Item:
    try:
        document = parquet_document(row, path)
    except RecordError as error:
        return Fault(error.reason, path, number, error.what, excerpt_of(str(row["text"])))
    if len(document.text.encode()) > bounds.document:
        detail = f"a text of more than input.max_document_mib = {bounds.document >> 20}"
        return Fault("too-long", path, number, detail, excerpt_of(document.text))
    return document if document.text.strip() else Fault("empty-text", path, number, "text is empty")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
