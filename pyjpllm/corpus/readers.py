"""Documents out of files: JSON Lines (plain, gzip, zstd), Parquet, plain text.

JSON Lines   an object a line with `text`, and if it has one an object `meta`; other keys are put into the meta
Parquet      a column `text`; a column `meta` (a struct, or JSON as text); other columns are put into the meta
plain text   a file is one document
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.inputs import expand_inputs, suffix_of
from pyjpllm.corpus.streams import read_lines, read_whole
from pyjpllm.errors import UserError, nearest

# What others call the text; offered when `text` is missing.
_USUAL_NAMES = ("content", "body", "raw_content", "contents", "document", "sentence", "raw")


def read_documents(inputs: str | PathLike[str] | Iterable[str | PathLike[str]]) -> Iterator[Document]:
    """All documents of files, folders and patterns, one after another in the order of ``expand_inputs``.

    Raises UserError with the file, the line and the nearest key for what cannot be read.
    """
    for path in expand_inputs(inputs):
        yield from read_file(path)


def read_file(path: Path) -> Iterator[Document]:
    """The documents of one file."""
    suffix = suffix_of(path)
    if suffix is None:
        raise UserError(f"{path}: files of this kind are not read")
    if suffix == ".parquet":
        yield from _read_parquet(path)
    elif suffix.startswith(".txt"):
        yield Document(_decode(read_whole(path), str(path)))
    else:
        yield from _read_json_lines(path)


def _read_json_lines(path: Path) -> Iterator[Document]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield _document(line, f"{path}, line {number}")


def _document(line: bytes, where: str) -> Document:
    text = _decode(line, where)
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: an object is expected, this is {_kind(record)}")
    if "text" not in record:
        raise UserError(f"{where}: no key 'text'{_nearest_key(record)}")
    return _checked(record.pop("text"), record.pop("meta", None), record, where)


def _checked(text: Any, meta: Any, others: dict[str, Any], where: str) -> Document:
    if not isinstance(text, str):
        raise UserError(f"{where}: 'text' must be a string, this is {_kind(text)}")
    if not _encodable(text):
        raise UserError(f"{where}: 'text' holds half of a surrogate pair, which is no character")
    if meta is not None and not isinstance(meta, Mapping):
        raise UserError(f"{where}: 'meta' must be an object, this is {_kind(meta)}")
    return Document(text, {**others, **(meta or {})})


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decode(data: bytes, where: str) -> str:
    """UTF-8, with or without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = data[error.start]
        raise UserError(
            f"{where}: not UTF-8 (byte 0x{wrong:02x} at {error.start + 1}); convert it, e.g. with iconv"
        ) from None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _nearest_key(keys: Iterable[str]) -> str:
    known = [str(key) for key in keys]
    match = nearest("text", known) or next((name for name in _USUAL_NAMES if name in known), None)
    if match is not None:
        return f"; did you mean {match!r}? Rename it to 'text'"
    return f"; the keys are: {', '.join(known)}" if known else "; the object is empty"


def _read_parquet(path: Path) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a Parquet file, or damaged ({str(error).splitlines()[0]})") from None
    with file:
        if "text" not in file.schema_arrow.names:
            raise UserError(f"{path}: no column 'text'{_nearest_key(file.schema_arrow.names)}")
        number = 0
        batches = file.iter_batches(batch_size=1024, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
                rows = [] if batch is None else batch.to_pylist()
            except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
                raise UserError(f"{path}: damaged after row {number} ({str(error).splitlines()[0]})") from None
            if batch is None:
                return
            for row in rows:
                number += 1
                where = f"{path}, row {number}"
                yield _checked(row.pop("text"), _parquet_meta(row.pop("meta", None), where), row, where)


def _parquet_meta(meta: Any, where: str) -> Any:
    if not isinstance(meta, str):
        return meta
    try:
        return json.loads(meta) if meta else None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: 'meta' is text, but no JSON: {error.msg}") from None
