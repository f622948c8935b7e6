"""`report.json` of a run, and how `jpllm corpus stats` shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyjpllm.corpus.counts import Counts, Histogram
from pyjpllm.corpus.layout import RunFolder
from pyjpllm.corpus.stage import Limits
from pyjpllm.errors import UserError

_ROWS = 16
_BAR = 40


def report_of(counts: Counts, files: int, shards: int, limits: Mapping[str, Mapping[str, Limits]]) -> dict[str, Any]:
    """The report: the same whoever did the work, but for ``seconds`` (CPU time of all processes)."""
    values = counts.as_json()
    for stage in values["stages"]:
        stage["limits"] = {name: list(bounds) for name, bounds in sorted(limits.get(stage["name"], {}).items())}
    return {"files": files, "shards": shards, **values}


def read_report(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The report of a run that is done. Raises UserError where there is none."""
    folder = RunFolder(Path(run))
    if not folder.path.is_dir():
        raise UserError(f"{run}: no such folder")
    if not folder.report.exists():
        if folder.plan.exists():
            raise UserError(f"{run}: this run is not done; 'jpllm corpus build' with its config goes on with it")
        raise UserError(f"{run}: is no run of 'jpllm corpus build' (there is no {folder.plan.name})")
    report: dict[str, Any] = json.loads(folder.report.read_bytes())
    return report


def show(report: Mapping[str, Any], *, measures: bool = True) -> Iterator[str]:
    """The report as lines: what came through each stage and what was dropped why; then a histogram of each measure."""
    read, written = report["read"], report["written"]
    yield f"{counted(report['files'], 'file')} in {counted(report['shards'], 'shard')}"
    yield ""
    yield f"{'':<36}{'documents':>14}{'of all':>8}{'characters':>17}{'of all':>8}{'seconds':>11}{'documents/s':>13}"
    yield _row("read", read, read, _speed(report, "read", read))
    for stage in report["stages"]:
        yield _row(stage["name"], stage["kept"], read, _speed(report, stage["name"], stage["read"]))
        for reason, tally in sorted(stage["dropped"].items(), key=lambda entry: -entry[1]["documents"]):
            yield _row(f"  - {reason}", tally, read, "")
        if stage["changed"]:
            yield f"    ({counted(stage['changed'], 'document')} changed)"
    yield _row("written", written, read, _speed(report, "write", written))
    if "tokens" in report:
        tokens = report["tokens"]
        yield f"{counted(tokens['tokens'], 'token')}, {tokens['characters_per_token']:.2f} characters a token"
    seconds = sum(report["seconds"].values())
    if seconds:
        speed = read["documents"] / seconds
        rate = read["bytes"] / 1e6 / seconds
        yield f"{seconds:,.1f} s of CPU time: {speed:,.0f} documents/s, {rate:.2f} MB/s"
    for title, names in (("set aside", report["set_aside"]), ("skipped", report["skipped"])):
        if names:
            yield ""
            yield f"{title}: " + ", ".join(f"{count:,} {name}" for name, count in names.items())
    if measures:
        for stage in report["stages"]:
            for name, histogram in stage["measures"].items():
                yield ""
                yield from _histogram(f"{stage['name']}: {name}", histogram, stage["limits"].get(name, (None, None)))
            missing = [name for name in stage["limits"] if name not in stage["measures"]]
            if missing and stage["read"]["documents"]:
                yield ""
                yield f"{stage['name']}: of no document: {', '.join(missing)}"


def counted(number: int, noun: str) -> str:
    """A number of things in words, as in `1 document`, `2,000 documents`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _speed(report: Mapping[str, Any], name: str, came: Mapping[str, int]) -> str:
    """The CPU seconds of a stage, and how many of the documents that came to it it did in one of them."""
    seconds = report["seconds"].get(name)
    if seconds is None:
        return ""
    return f"{seconds:>11,.2f}" + (f"{came['documents'] / seconds:>13,.0f}" if seconds else "")


def _row(name: str, tally: Mapping[str, int], all_of: Mapping[str, int], speed: str) -> str:
    documents = tally["documents"] / max(1, all_of["documents"])
    characters = tally["characters"] / max(1, all_of["characters"])
    return f"{name:<36}{tally['documents']:>14,}{documents:>8.1%}{tally['characters']:>17,}{characters:>8.1%}{speed}"


def _histogram(title: str, histogram: Histogram, limits: Sequence[float | None]) -> Iterator[str]:
    """Bars, with the limits between them."""
    values = sorted((float(value), count) for value, count in histogram.items())
    total = sum(count for _, count in values)
    edges = _edges(values)
    yield f"{title} ({counted(total, 'document')})"
    counts = [0] * (len(edges) - 1)
    place = 0
    for value, count in values:
        while place < len(counts) - 1 and value >= edges[place + 1]:
            place += 1
        counts[place] += count
    most = max(counts)
    bars = [
        (low, 1, f"{low:>10.3g} |{'#' * round(_BAR * count / most):<{_BAR}} {count:,}")
        for low, count in zip(edges, counts, strict=False)
    ]
    lines = [
        (limit, 0, f"{limit:>10.3g} {'-' * _BAR}- {words}")
        for limit, words in zip(limits, ("at least", "at most"), strict=True)
        if limit is not None
    ]
    for _, _, line in sorted(bars + lines):
        yield line


def _edges(values: Sequence[tuple[float, int]]) -> list[float]:
    """Where the bars begin: even steps, or even ratios where the values span more than three decades."""
    low, high = values[0][0], values[-1][0]
    if low == high:
        return [low, low + 1]
    if low > 0 and high / low > 1000:
        ratio = (high / low) ** (1 / _ROWS)
        return [low * ratio**step for step in range(_ROWS + 1)]
    return [low + (high - low) * step / _ROWS for step in range(_ROWS + 1)]
