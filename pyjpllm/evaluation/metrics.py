"""What a run folder says about its run: metrics, config, samples, checkpoints. Reads, never writes.

A run that was killed leaves a half-written last line, and one that resumed leaves steps twice; both are normal here.
"""

from __future__ import annotations

import json
import math
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyjpllm.config.schema import Config
from pyjpllm.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Metrics:
    """`metrics.jsonl` by column; nested keys are joined by a dot (``seconds.forward``)."""

    steps: Ints
    """The steps, ascending, each once."""
    columns: dict[str, Floats]
    """Column -> a value for each step; NaN where a line had none (or had NaN)."""
    unreadable: int = 0
    """Complete lines that were no metrics; a cut-off last line is not counted."""
    rewinds: tuple[int, ...] = ()
    """First step of each stretch that was computed again, after a resume from an older checkpoint."""

    def column(self, name: str) -> Floats:
        """Values of ``name`` for every step; all NaN when the run never wrote it."""
        found = self.columns.get(name)
        return found if found is not None else np.full(len(self.steps), np.nan)

    def last(self, name: str) -> float | None:
        """The newest finite value of ``name``, or None."""
        values = self.column(name)
        finite = np.flatnonzero(np.isfinite(values))
        return float(values[finite[-1]]) if len(finite) else None


@dataclass
class _Columns:
    """Grows by one line at a time at eight bytes a value: a million steps are read without a million dicts."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: dict[str, array[float]] = field(default_factory=dict)

    def add(self, step: int, record: dict[str, float]) -> bool:
        """Append a line; True when it goes back behind an older one, whose later steps are then forgotten."""
        rewound = bool(self.steps) and step < self.steps[-1]
        if rewound:
            keep = bisect_left(self.steps, step)
            del self.steps[keep:]
            for column in self.values.values():
                del column[keep:]
        if not self.steps or step != self.steps[-1]:
            self.steps.append(step)
        count = len(self.steps)
        for name, value in record.items():
            column = self.values.setdefault(name, array("d"))
            if len(column) < count:
                column.extend([math.nan] * (count - len(column)))
            column[count - 1] = value
        return rewound

    def finish(self, name: str) -> Floats:
        column = np.full(len(self.steps), np.nan)
        column[: len(self.values[name])] = np.frombuffer(self.values[name], dtype=np.float64)
        return column


def _numbers(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)):
            yield prefix + key, float(value)
        elif value is None or value in ("nan", "NaN", "inf", "-inf", "Infinity", "-Infinity"):
            yield prefix + key, float(value) if value else math.nan


def read_metrics(path: Path) -> Metrics:
    """Read a `metrics.jsonl`.

    A line of step s replaces every earlier line of steps >= s, as a resume from an older checkpoint does to the run
    itself; two lines of one step in a row are one line in two parts. A last line without its newline that does not
    parse is a write cut short by a kill and is left out; other lines that do not parse are counted.
    """
    table = _Columns()
    unreadable = 0
    rewinds: list[int] = []
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                    step = record["step"]
                    if type(step) is not int or not 0 <= step < 1 << 63:
                        raise ValueError(step)
                    numbers = dict(_numbers(record))
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    unreadable += line.endswith(b"\n")
                    continue
                del numbers["step"]
                if table.add(step, numbers):
                    rewinds.append(step)
    return Metrics(
        steps=np.array(table.steps, dtype=np.int64),
        columns={name: table.finish(name) for name in table.values},
        unreadable=unreadable,
        rewinds=tuple(rewinds),
    )


@dataclass(frozen=True)
class Sample:
    """Text that the model wrote at a step."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Checkpoint:
    """A folder under `checkpoints/`."""

    name: str
    step: int
    complete: bool
    """It has its manifest: an interrupted save has none."""
    bytes: int
    files: int
    modified: float
    """Seconds since 1970 of its newest file."""


@dataclass(frozen=True)
class Run:
    """A run folder, as far as it is there."""

    folder: Path
    metrics: Metrics
    config: dict[str, Any]
    """`config.toml` parsed; empty when there is none."""
    config_text: str
    samples: tuple[Sample, ...]
    checkpoints: tuple[Checkpoint, ...]
    environment: dict[str, Any]
    """`environment.json`, what the run ran on; empty when there is none."""


def _read_samples(path: Path) -> Iterator[Sample]:
    latest: dict[tuple[int, str], Sample] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                record = json.loads(line)
                sample = Sample(int(record["step"]), str(record["prompt"]), str(record["text"]))
            except (ValueError, KeyError, TypeError):
                continue
            latest[sample.step, sample.prompt] = sample
    yield from sorted(latest.values(), key=lambda sample: sample.step)


def _read_checkpoints(folder: Path) -> Iterator[Checkpoint]:
    found = []
    for entry in folder.glob("step-*"):
        number = entry.name.removeprefix("step-")
        if not entry.is_dir() or not number.isdigit():
            continue
        try:
            files = [(file.name, file.stat()) for file in entry.rglob("*") if file.is_file()]
            found.append(
                Checkpoint(
                    name=entry.name,
                    step=int(number),
                    complete=(entry / "manifest.json").is_file(),
                    bytes=sum(stat.st_size for _, stat in files),
                    files=len(files),
                    modified=max((stat.st_mtime for _, stat in files), default=entry.stat().st_mtime),
                )
            )
        except FileNotFoundError:  # the run, which goes on, has removed it meanwhile
            continue
    yield from sorted(found, key=lambda checkpoint: checkpoint.step)


def read_run(folder: Path) -> Run:
    """Read a run folder; UserError when ``folder`` is none.

    Anything may still be missing: a run that was started a second ago has a config and nothing else.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a run folder is what `jpllm train --run` names")
    config_path = folder / "config.toml"
    metrics_path = folder / "metrics.jsonl"
    if not config_path.exists() and not metrics_path.exists():
        inside = [child for child in sorted(folder.iterdir()) if (child / "metrics.jsonl").exists()]
        hint = f"; did you mean {str(inside[0])!r}?" if inside else ""
        raise UserError(f"{folder}: no run folder: it has neither config.toml nor metrics.jsonl{hint}")
    try:
        config_text = config_path.read_text(encoding="utf-8") if config_path.exists() else ""
        config = tomllib.loads(config_text)
    except UnicodeDecodeError:
        raise UserError(f"{config_path}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{config_path}: not valid TOML: {error}") from None
    sections = Config.model_fields
    flat = next((name for name, value in config.items() if name in sections and not isinstance(value, dict)), None)
    if flat is not None:
        raise UserError(f"{config_path}: {flat} = {config[flat]!r}: a section is expected, [{flat}]")
    environment: dict[str, Any] = {}
    environment_path = folder / "environment.json"
    if environment_path.exists():
        try:
            environment = dict(json.loads(environment_path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{environment_path}: not a JSON object: {error}") from None
    return Run(
        folder=folder,
        metrics=read_metrics(metrics_path),
        config=config,
        config_text=config_text,
        samples=tuple(_read_samples(folder / "samples.jsonl")),
        checkpoints=tuple(_read_checkpoints(folder / "checkpoints")),
        environment=environment,
    )
