"""A model's file: safetensors whose metadata have one JSON object (what the model is, how it was made, how good it is)
and a checksum over all of it. Arrays are mapped, so that the processes of a node share one copy.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pyjpllm.errors import UserError, nearest
from pyjpllm.files import atomic_write, usual_mode

VERSION = 1
_KEY = "pyjpllm"
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "U64": np.dtype("<u8")}
_LONGEST_HEADER = 1 << 24

Arrays = Mapping[str, NDArray[Any]]


def write_model(path: str | os.PathLike[str], kind: str, header: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a model of a kind: all of it, or nothing. The same model gives the same bytes."""
    values = {"kind": kind, "version": VERSION, **header}
    values["sha256"] = _checksum(values, arrays)
    with atomic_write(path) as temporary:
        save_file(dict(arrays), temporary, metadata={_KEY: _written(values)})
        usual_mode(temporary)


def read_model(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The header and the arrays (mapped, read-only) of a model's file.

    Raises UserError for a file that is not there, is no model of this ``kind`` and version, or is damaged.
    """
    file = Path(path)
    values, entries, start = _read_header(file)
    if values.get("kind") != kind:
        raise UserError(f"{path}: holds a {values.get('kind')}, where a {kind} is needed")
    if values.get("version") != VERSION:
        raise UserError(f"{path}: is of version {values.get('version')}; this program reads {VERSION}: train it again")
    try:
        arrays = {name: _array(file, entry, start) for name, entry in entries.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); train it again") from None
    if values.pop("sha256", None) != _checksum(values, arrays):
        raise UserError(f"{path}: is damaged (its checksum is another); train it again")
    return values, arrays


def checksum_in(path: str | os.PathLike[str]) -> str:
    """The checksum that a model's file says it has; empty where there is no such file."""
    try:
        return str(_read_header(Path(path))[0].get("sha256", ""))
    except UserError:
        return ""


def _written(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, sort_keys=True)


def _checksum(values: Mapping[str, Any], arrays: Arrays) -> str:
    digest = hashlib.sha256(_written(values).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read_header(file: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Our object, the entries of the tensors, and where their bytes begin."""
    try:
        with open(file, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            head = stream.read(size) if size <= _LONGEST_HEADER else b""
    except FileNotFoundError:
        raise UserError(f"{file}: no such file{_nearest(file)}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        if len(head) != size:
            raise ValueError("its head is cut")
        entries = json.loads(head)
        text = entries.pop("__metadata__")[_KEY]
        values = json.loads(text)
        if not isinstance(values, dict) or text != _written(values):  # a last digit can change and the number stay
            raise ValueError("not as it was written")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file}: is no model of 'jpllm corpus', or damaged") from None
    return values, entries, 8 + size


def _array(file: Path, entry: Mapping[str, Any], start: int) -> NDArray[Any]:
    dtype, shape = _TYPES[entry["dtype"]], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    size = math.prod(shape) * dtype.itemsize
    if end - begin != size or start + end > file.stat().st_size:
        raise ValueError("it is cut")
    if size == 0:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", start + begin, shape)


def _nearest(file: Path) -> str:
    if not file.parent.is_dir():
        return f"; the folder {str(file.parent)!r} does not exist"
    match = nearest(file.name, sorted(entry.name for entry in file.parent.iterdir()))
    return f"; did you mean {str(file.parent / match)!r}?" if match else ""
