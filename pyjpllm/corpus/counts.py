"""What a run counts: documents, characters and bytes by stage and reason, measures, seconds. Kept for each shard and
summed, so that the sums do not depend on who did which shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pyjpllm.corpus.documents import Document

Histogram = dict[str, int]
"""How often a measure had which value, by the value to two digits (``bin_of``)."""


def bin_of(value: float) -> str:
    """The value to two digits: fine enough to draw, the same for everyone, and mergeable without knowing the range."""
    return f"{value:.1e}"


@dataclass
class Tally:
    """Documents with their characters and UTF-8 bytes."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0

    def add(self, document: Document, size: int) -> None:
        """Count one more document, of ``size`` bytes in UTF-8."""
        self.documents += 1
        self.characters += len(document.text)
        self.bytes += size

    def merge(self, other: Tally) -> None:
        """Add another count."""
        self.documents += other.documents
        self.characters += other.characters
        self.bytes += other.bytes


@dataclass
class StageCounts:
    """What one stage did."""

    name: str
    read: Tally = field(default_factory=Tally)
    dropped: dict[str, Tally] = field(default_factory=dict)
    changed: int = 0
    """Documents that stayed with another text."""
    kept: Tally = field(default_factory=Tally)
    measures: dict[str, Histogram] = field(default_factory=dict)

    def drop(self, reason: str, document: Document, size: int) -> None:
        """Count a document that is dropped."""
        self.dropped.setdefault(reason, Tally()).add(document, size)

    def measure(self, measures: Mapping[str, float]) -> None:
        """Count what was measured of one document."""
        for name, value in measures.items():
            histogram = self.measures.setdefault(name, {})
            key = bin_of(value)
            histogram[key] = histogram.get(key, 0) + 1

    def merge(self, other: StageCounts) -> None:
        """Add what it did in another shard."""
        self.read.merge(other.read)
        self.kept.merge(other.kept)
        self.changed += other.changed
        for reason, tally in other.dropped.items():
            self.dropped.setdefault(reason, Tally()).merge(tally)
        for name, histogram in other.measures.items():
            _add(self.measures.setdefault(name, {}), histogram)


@dataclass
class Counts:
    """What was done to one shard in one pass, or to all of them."""

    read: Tally = field(default_factory=Tally)
    skipped: dict[str, int] = field(default_factory=dict)
    set_aside: dict[str, int] = field(default_factory=dict)
    stages: list[StageCounts] = field(default_factory=list)
    written: Tally = field(default_factory=Tally)
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU seconds by stage, with `read` and `write`; the one part that differs from run to run."""

    def merge(self, other: Counts) -> None:
        """Add another shard of the same pass."""
        self.read.merge(other.read)
        self.written.merge(other.written)
        _add(self.skipped, other.skipped)
        _add(self.set_aside, other.set_aside)
        if not self.stages:
            self.stages = [StageCounts(stage.name) for stage in other.stages]
        for mine, its in zip(self.stages, other.stages, strict=True):
            mine.merge(its)
        for name, seconds in other.seconds.items():
            self.spend(name, seconds)

    def followed_by(self, other: Counts) -> None:
        """Add the next pass."""
        self.stages += other.stages
        self.written = other.written
        _add(self.set_aside, other.set_aside)
        for name, seconds in other.seconds.items():
            self.spend(name, seconds)

    def spend(self, name: str, seconds: float) -> None:
        """Add to the seconds of a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def as_json(self) -> dict[str, Any]:
        """As plain values, in an order that does not depend on the order of the documents."""
        values = asdict(self)
        for name in ("skipped", "set_aside"):
            values[name] = dict(sorted(values[name].items()))
        for stage in values["stages"]:
            stage["dropped"] = dict(sorted(stage["dropped"].items()))
            stage["measures"] = {
                name: dict(sorted(histogram.items(), key=lambda entry: float(entry[0])))
                for name, histogram in sorted(stage["measures"].items())
            }
        values["seconds"] = {name: round(seconds, 6) for name, seconds in values["seconds"].items()}
        return values


def counts_from_json(values: Mapping[str, Any]) -> Counts:
    """The counts that ``Counts.as_json`` wrote."""
    return Counts(
        read=Tally(**values["read"]),
        skipped=dict(values["skipped"]),
        set_aside=dict(values["set_aside"]),
        stages=[
            StageCounts(
                name=stage["name"],
                read=Tally(**stage["read"]),
                dropped={reason: Tally(**tally) for reason, tally in stage["dropped"].items()},
                changed=stage["changed"],
                kept=Tally(**stage["kept"]),
                measures=stage["measures"],
            )
            for stage in values["stages"]
        ],
        written=Tally(**values["written"]),
        seconds=dict(values["seconds"]),
    )


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count
