"""Labels that stand in a file of their own, beside the documents: a record a document, joined by a key.

JSON Lines   an object a line
CSV          a head with the names of the columns, then a row a record, in UTF-8
Parquet      a row a record
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from pyjpllm.corpus.inputs import expand_inputs, suffix_of
from pyjpllm.corpus.quality.labels import Example, Label, checked_label, read_with_places
from pyjpllm.corpus.readers import decode
from pyjpllm.corpus.streams import read_lines, read_whole
from pyjpllm.errors import UserError, did_you_mean

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".parquet")
KEYS = ("id", "url")
"""What joins documents and labels where the user names nothing: the first that the file has."""
_Path: TypeAlias = str | os.PathLike[str]
_SHOWN = 60
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


@dataclass(frozen=True)
class LabelFile:
    """The labels of a file."""

    path: str
    key: str
    """The name of the key, in the file and in the documents' meta."""
    labels: Mapping[str, Label]
    """By the key's value as text: the number 7 and "7" are the same key, since CSV knows no other."""


@dataclass
class Joined:
    """Documents with a label, and what has no counterpart."""

    examples: list[Example] = field(default_factory=list)
    without_label: int = 0
    """Documents that are left out: the file has no label for their key, or they have no key."""
    without_document: int = 0
    """Labels of keys that no document has."""

    def counts(self) -> dict[str, int]:
        """For the report."""
        return {
            "documents_with_label": len(self.examples),
            "documents_without_label": self.without_label,
            "labels_without_document": self.without_document,
        }


def read_label_file(path: _Path, name: str, key: str | None = None) -> LabelFile:
    """The labels of the column ``name`` by the column ``key`` (None: `id`, or `url` where there is none).

    ``path`` may be a folder or a pattern. Raises UserError with the file and the line for what cannot be read, a column
    that is not there, a label that is none, labels of two kinds, and a key that has two different labels.
    """
    labels: dict[str, Label] = {}
    places: dict[str, str] = {}
    first: Label | None = None
    for where, record in _records(expand_inputs(path, SUFFIXES), name, KEYS if key is None else (key,)):
        if key is None:
            key = next((each for each in KEYS if each in record), None)
            if key is None:
                raise UserError(f"{where}: no 'id' and no 'url' to find the documents by; name the column with --key"
                                f" (there are {', '.join(record) or 'none'})")  # fmt: skip
        for column in (key, name):
            if column not in record:
                raise UserError(f"{where}: no {column!r}{did_you_mean(column, record)}")
        value = record[key]
        if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
            raise UserError(f"{where}: {key} = {_shown(value)}: must be a text or a number")
        label = checked_label(record[name], name, where, first)
        first = label if first is None else first
        known = labels.setdefault(str(value), label)
        if known != label:
            raise UserError(
                f"{where}: {key} {_shown(value)} has the {name} {label!r}, and {known!r} in {places[str(value)]}"
            )
        places.setdefault(str(value), where)
    if key is None or not labels:
        raise UserError(f"{path}: holds no label")
    return LabelFile(os.fspath(path), key, labels)


def read_joined(paths: Sequence[_Path], labels: LabelFile, characters: int) -> Joined:
    """The documents of files that have a label in ``labels``, the first ``characters`` of each; the others are counted.

    Raises UserError where no document has one.
    """
    found = Joined()
    used: set[str] = set()
    keyless = 0
    strange = ""  # the key of a document without a label
    names: dict[str, None] = {}
    for _, text, meta in read_with_places(paths, characters):
        value = meta.get(labels.key)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            keyless += 1
            names.update(dict.fromkeys(meta))
        elif str(value) in labels.labels:
            used.add(str(value))
            found.examples.append(Example(text, labels.labels[str(value)]))
            continue
        else:
            strange = strange or str(value)
        found.without_label += 1
    found.without_document = len(labels.labels) - len(used)
    if not found.examples and found.without_label:
        if keyless == found.without_label:
            hint = did_you_mean(labels.key, names) or "; it is empty"
            raise UserError(f"{paths[0]}: no document has {labels.key!r} in its meta{hint}; --key names another")
        there = next(iter(labels.labels))
        raise UserError(
            f"{labels.path}: holds the label of no document: {labels.key} is {_shown(there)} there, and "
            f"{_shown(strange)} in the documents"
        )
    return found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _records(paths: Iterable[Path], name: str, keys: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, the record) of every record. Of CSV, where all is text, the column ``name`` becomes numbers; it and
    ``keys`` may stand in the head only once."""
    for path in paths:
        suffix = suffix_of(path, SUFFIXES)
        if suffix == ".csv":
            yield from _csv(path, name, keys)
        elif suffix == ".parquet":
            yield from _parquet(path)
        else:
            yield from _json_lines(path)


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(decode(line, where))
        except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
            raise UserError(f"{where}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: an object is expected")
        yield where, record


def _csv(path: Path, name: str, keys: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = decode(read_whole(path), str(path))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head: list[str] | None = None
    before = 0  # the line that the row before ends in: a quoted field can hold line ends
    try:
        for row in reader:
            where = f"{path}, line {before + 1}"
            before = reader.line_num
            if not row:
                continue
            if head is None:
                head = row
                for column in (name, *keys):
                    if row.count(column) > 1:
                        raise UserError(f"{where}: {row.count(column)} columns are called {column!r}; leave one")
                continue
            if len(row) != len(head):
                raise UserError(f"{where}: {len(row)} columns, where the head has {len(head)}")
            record: dict[str, Any] = dict(zip(head, row, strict=True))
            if name in record:
                record[name] = _value(record[name])
            yield where, record
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _value(cell: str) -> int | float | str:
    """A label as the number that it is written as, else as text."""
    if not _NUMBER.fullmatch(cell):
        return cell
    return float(cell) if "." in cell else int(cell)


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a Parquet file, or damaged ({str(error).splitlines()[0]})") from None
