"""Documents out of files: JSON Lines (plain, gzip, zstd), Parquet, plain text.

JSON Lines   an object a line with `text`, and if it has one an object `meta`; other keys are put into the meta
Parquet      a column `text`; a column `meta` (a struct, or JSON as text); other columns are put into the meta
             (``pyjpllm.corpus.meta.plain`` says how)
plain text   a file is one document
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.inputs import expand_inputs, suffix_of
from pyjpllm.corpus.meta import MAX_DEPTH, plain, rows, too_deep
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
        yield Document(decode(read_whole(path), str(path)))
    else:
        yield from _read_json_lines(path)


class RecordError(UserError):
    """A line, a row or a file that is no document. ``reason`` is the short name that the corpus pipeline counts it
    under (``pyjpllm.corpus.faults``)."""

    def __init__(self, reason: str, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.reason = reason
        self.what = what


def _read_json_lines(path: Path) -> Iterator[Document]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield parse_json_line(line, f"{path}, line {number}")


def parse_json_line(line: bytes, where: str) -> Document:
    """The document of one line of JSON. Raises RecordError."""
    text = decode(line, where)
    try:
        record = _parsed(text)
    except json.JSONDecodeError as error:
        raise RecordError("not-json", where, f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise RecordError("too-deep", where, "JSON nested too deeply") from None
    except ValueError as error:
        raise RecordError("not-json", where, f"not JSON: {str(error).split(';')[0]}") from None
    if not isinstance(record, dict):
        raise RecordError("not-an-object", where, f"an object is expected, this is {_kind(record)}")
    if "text" not in record:
        raise RecordError("no-text", where, f"no key 'text'{nearest_key(record)}")
    document = checked(record.pop("text"), record.pop("meta", None), record, where)
    _check_meta(document, text, where)
    return document


def _parsed(text: str) -> Any:
    """Raises JSONDecodeError, RecursionError, and ValueError for numbers that are none: NaN, those beyond all floats,
    and whole ones of more digits than Python converts."""
    value, end = _DECODER.raw_decode(text) if text.startswith("{") else (None, -1)
    # else: white space around it, or no object alone
    return value if end == len(text) else _DECODER.decode(text)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no value")


def _finite(word: str) -> float:
    number = float(word)
    if math.isinf(number):
        raise ValueError(f"{word} is too large a number")
    return number


# json.loads makes one of these at each call where it is given an option: for a short document half of the work.
_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)


def _check_meta(document: Document, text: str, where: str) -> None:
    """Raises RecordError for a meta, parsed from ``text``, that could not be written again."""
    if text.count("{") + text.count("[") > MAX_DEPTH and too_deep(document.meta):
        raise RecordError("too-deep", where, f"'meta' is nested more than {MAX_DEPTH} deep")
    if "\\ud" in text or "\\uD" in text:  # else UTF-8 cannot hold half a pair
        check_encodable(json.dumps(dict(document.meta), ensure_ascii=False), "'meta'", where)


def checked(text: Any, meta: Any, others: dict[str, Any], where: str) -> Document:
    """The document of a record's parts. Raises RecordError when one is of the wrong kind."""
    if not isinstance(text, str):
        raise RecordError("text-no-string", where, f"'text' must be a string, this is {_kind(text)}")
    check_encodable(text, "'text'", where)
    if meta is not None and type(meta) is not dict and not isinstance(meta, Mapping):
        raise RecordError("meta-no-object", where, f"'meta' must be an object, this is {_kind(meta)}")
    return Document(text, {**others, **(meta or {})})


def check_encodable(text: str, name: str, where: str) -> None:
    """Raises RecordError for a text that UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecordError(
            "half-a-pair", where, f"{name} holds half of a surrogate pair, which is no character"
        ) from None


def decode(data: bytes, where: str) -> str:
    """UTF-8, with or without a byte order mark. Raises RecordError."""
    try:
        return data.decode().removeprefix("\ufeff")  # the codec utf-8-sig is written in Python
    except UnicodeDecodeError as error:
        wrong = data[error.start]
        what = f"not UTF-8 (byte 0x{wrong:02x} at {error.start + 1}); convert it, e.g. with iconv"
        raise RecordError("not-utf8", where, what) from None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    names |= {int: "a number", float: "a number", bytes: "binary"}
    return names.get(type(value), f"a {type(value).__name__}")


def nearest_key(keys: Iterable[str]) -> str:
    """What to say about a record without ``text``: the key that most likely was meant for it, or all keys."""
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
            raise UserError(f"{path}: no column 'text'{nearest_key(file.schema_arrow.names)}")
        number = 0
        batches = file.iter_batches(batch_size=1024, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
                found = [] if batch is None else rows(batch)
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                raise UserError(f"{path}: damaged after row {number} ({str(error).splitlines()[0]})") from None
            if batch is None:
                return
            for row in found:
                number += 1
                yield parquet_document(row, f"{path}, row {number}")


def parquet_document(row: Mapping[str, Any], where: str) -> Document:
    """The document of a row of a Parquet file: the values of its columns by their names. Raises RecordError."""
    others = dict(row)
    text, meta = others.pop("text"), others.pop("meta", None)
    if isinstance(text, bytes):  # as writers that do not mark UTF-8 leave it
        text = decode(text, where)
    written = meta if isinstance(meta, str) else ""
    if isinstance(meta, str):
        meta = _parsed_meta(meta, where)
    elif meta is not None:
        meta = _plain("meta", meta, where)
    document = checked(text, meta, {name: _plain(name, value, where) for name, value in others.items()}, where)
    _check_meta(document, written, where)
    return document


def _parsed_meta(text: str, where: str) -> Any:
    try:
        return _parsed(text) if text else None
    except json.JSONDecodeError as error:
        raise RecordError("meta-no-object", where, f"'meta' is text, but no JSON: {error.msg}") from None
    except RecursionError:
        raise RecordError("too-deep", where, "'meta' is JSON nested too deeply") from None
    except ValueError as error:
        raise RecordError("meta-no-object", where, f"'meta' is no JSON: {str(error).split(';')[0]}") from None


def _plain(name: str, value: Any, where: str) -> Any:
    try:
        return plain(value)
    except ValueError as error:
        raise RecordError("no-json-value", where, f"'{name}' cannot go into the meta: {error}") from None
