"""What a run writes about itself: metrics.jsonl, TensorBoard events, text samples, seconds by phase."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


class Timers:
    """Wall-clock seconds by phase of one step; on a GPU each phase waits for its kernels."""

    def __init__(self, device: torch.device) -> None:
        self._synchronize = device.type == "cuda"
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of this block to ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._synchronize:
                torch.cuda.synchronize()
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere to ``name``."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def restart(self) -> dict[str, float]:
        """The seconds since the last call, ``total`` among them, and begin anew."""
        now = time.perf_counter()
        seconds = {**self.seconds, "total": now - self._start}
        self.seconds, self._start = {}, now
        return seconds


class JsonLines:
    """Appends one JSON object a line; each line is handed to the system whole, so a kill can cut only the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            _cut_broken_tail(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, record: dict[str, Any]) -> None:
        """Append ``record``; numbers that JSON has not (NaN, infinities) become null."""
        clean = {key: _json_number(value) for key, value in record.items()}
        os.write(self._descriptor, (json.dumps(clean, ensure_ascii=False) + "\n").encode())

    def sync(self) -> None:
        """Flush to the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Flush to the disk and close."""
        self.sync()
        os.close(self._descriptor)


def _json_number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _json_number(inner) for key, inner in value.items()}
    return value


def _cut_broken_tail(path: Path) -> None:
    with open(path, "r+b") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)


def drop_after(path: Path, step: int) -> None:
    """Remove the records of steps after ``step``: a resumed run writes them again."""
    if not path.exists():
        return
    _cut_broken_tail(path)
    with open(path, "r+b") as file:
        keep = 0
        for line in iter(file.readline, b""):
            try:
                if json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                continue  # goes with the good one before it; those behind it stay
            keep = file.tell()
        file.truncate(keep)


class MetricsWriter:
    """The run folder's records, written by rank 0 only."""

    def __init__(self, run_dir: Path, *, first_step: int, tensorboard: bool) -> None:
        for name in ("metrics.jsonl", "samples.jsonl"):
            drop_after(run_dir / name, first_step - 1)
        self._metrics = JsonLines(run_dir / "metrics.jsonl")
        self._samples = JsonLines(run_dir / "samples.jsonl")
        self._events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(run_dir), purge_step=first_step)

    def step(self, record: dict[str, Any]) -> None:
        """Write one step's record."""
        self._metrics.write(record)
        if self._events is not None:
            for key, value in record.items():
                if isinstance(value, (int, float)) and key != "step":
                    self._events.add_scalar(key, value, record["step"])
            for key, value in record.get("seconds", {}).items():
                self._events.add_scalar(f"seconds/{key}", value, record["step"])

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Write one continuation that the model made at ``step``."""
        self._samples.write({"step": step, "prompt": prompt, "text": text})
        if self._events is not None:
            self._events.add_text("sample", text, step)

    def sync(self) -> None:
        """Flush the records to the disk, before a checkpoint that they belong to."""
        self._metrics.sync()
        self._samples.sync()

    def close(self) -> None:
        """Flush everything."""
        self._metrics.close()
        self._samples.close()
        if self._events is not None:
            self._events.close()
