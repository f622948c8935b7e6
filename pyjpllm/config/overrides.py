"""Overrides of a config on the command line: ``section.key=value``."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pyjpllm.config import mistakes as say
from pyjpllm.config.mistakes import Location, Mistake
from pyjpllm.config.schema import Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Overrides = Mapping[Location, tuple[str, Any]]


def parse_overrides(overrides: Sequence[str]) -> tuple[Overrides, list[str]]:
    """Overrides as a map from location to (the override as written, its value), and a line for each that is none.

    A value is TOML; a word that is not TOML is a text, and so is any one word where the field takes a text.
    """
    given: dict[Location, tuple[str, Any]] = {}
    lines: list[str] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        location: Location = tuple(
            int(part) if part.isascii() and part.isdigit() else part for part in name.strip().split(".")
        )
        if not equals:
            if override.startswith("-"):
                lines.append(f"override {override!r}: an override is section.key=value, options come before or apart")
                continue
            right = say.right_name(location)
            example = right if right in say.all_names() else "train.steps"
            lines.append(f"override {override!r}: an override is section.key=value; did you mean '{example}=...'?")
            continue
        if "" in location:
            lines.append(f"override {override!r}: a name is missing; write section.key=value, as in train.steps=100")
            continue
        try:
            value = _value(text.strip(), location)
        except tomllib.TOMLDecodeError as error:
            reason = re.sub(r" \(at [^)]*\)$", "", str(error))
            lines.append(f"override {override!r}: the value is not valid TOML: {reason}")
            continue
        clash = next((other for other in given if _overlap(other, location)), None)
        if clash is not None:
            lines.append(f"override {override!r}: {say.dotted(location)} is given twice, also in {given[clash][0]!r}")
            continue
        given[location] = (override, value)
    return given, lines


def _overlap(one: Location, other: Location) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _value(text: str, location: Location) -> Any:
    want = say.annotation_at(location)
    try:
        # Inside brackets on one line: a comment would swallow the bracket, a second value shows in the length.
        values = tomllib.loads(f"value = [{text}]")["value"]
    except tomllib.TOMLDecodeError:
        if text[:1] in ("[", "{", '"', "'"):
            raise
        return text
    if len(values) != 1 or (want is str and not isinstance(values[0], (str, list, dict))):
        return text  # a path named 2024 is a path
    return values[0]


def apply_overrides(raw: dict[str, Any], given: Overrides) -> list[Mistake]:
    """Lay the values over ``raw`` in place. A number in a name is a place in a list that is there."""
    found: list[Mistake] = []
    for location, (_, value) in given.items():
        if len(location) == 1 and not isinstance(value, dict):
            found.append(
                _section_value(location) if location[0] in Config.model_fields else say.unknown(location, value)
            )
            continue
        here: Any = raw
        for depth, part in enumerate(location[:-1]):
            if isinstance(here, dict):
                here = here.setdefault(part, {})
            elif _holds(here, part):
                here = here[part]
            else:
                found.append(_no_entry(location, depth))
                break
        else:
            if isinstance(here, dict) or _holds(here, location[-1]):
                here[location[-1]] = value
            else:
                found.append(_no_entry(location, len(location) - 1))
    return found


def _holds(here: object, index: str | int) -> bool:
    return isinstance(here, list) and isinstance(index, int) and index < len(here)


def _no_entry(location: Location, depth: int) -> Mistake:
    return Mistake(location, f"{say.dotted(location[:depth])} has no entry {location[depth]!r}")


def _section_value(location: Location) -> Mistake:
    fields = list(say.fields_of(say.annotation_at(location)))
    example = f"{location[0]}.{fields[0]}"
    return Mistake(location, f"a section has no value of its own; write section.key=value, as in {example}=...")
