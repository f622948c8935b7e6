"""A config as TOML: deterministic, and reading it back gives the same config."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def format_value(value: object) -> str:
    """One value in TOML, on one line. Raises TypeError for what a config cannot hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {format_value(v)}" for k, v in value.items()) + "}"
    raise TypeError(f"a config cannot hold {value!r}")


def to_toml(config: BaseModel) -> str:
    """The whole config, defaults included, one ``[section]`` a table; fields that are None are left out.

    The order is the schema's, so the same config gives the same text.
    """
    return _table(config.model_dump(exclude_none=True), "").lstrip("\n")


def _table(table: Mapping[str, Any], prefix: str) -> str:
    plain = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
    tables = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    text = "".join(f"{_key(k)} = {format_value(v)}\n" for k, v in plain.items())
    if prefix:
        text = f"\n[{prefix}]\n{text}"
    for name, inner in tables.items():
        text += _table(inner, f"{prefix}.{_key(name)}" if prefix else _key(name))
    return text


def _key(name: str) -> str:
    bare = name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    return name if bare else _quoted(name)


def _quoted(text: str) -> str:
    # JSON's escapes are a part of TOML's; DEL must be escaped in TOML and is not in JSON.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
