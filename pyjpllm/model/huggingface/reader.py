"""Typed reading of a `config.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyjpllm.errors import UserError


class Reader:
    """Typed reading of one `config.json`; every complaint names the file and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            where = "" if path.parent.is_dir() else " (there is no such folder)"
            raise UserError(f"{path.parent} is no Hugging Face model: it has no config.json{where}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} holds a {type(values).__name__}, not an object")
        self.values = values
        self.defaults: dict[str, Any] = {}

    def fail(self, message: str) -> UserError:
        return UserError(f"{self.path}: {message}")

    def get(self, key: str) -> Any:
        return self.values.get(key, self.defaults.get(key))

    def integer(self, key: str) -> int:
        value = self.get(key)
        if value is None and key not in self.values:
            raise self.fail(f"{key} is missing")
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.fail(f"{key} = {value!r} is no integer")
        return value

    def number(self, key: str, source: dict[str, Any] | None = None) -> float:
        value = self.get(key) if source is None else source.get(key)
        if value is None:
            raise self.fail(f"{key} is missing")
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.fail(f"{key} = {value!r} is no number")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.fail(f"{key} = {value!r} is neither true nor false")
        return value
