"""The folder of a corpus run: where what lies.

config.json            the config as it was used; a run goes on only with the same
plan.json              the shards
documents/             what is kept: 00012-000.jsonl.zst is the first file of shard 12
tokens.bin, .idx, .json   the same as tokens, if output.format = "tokens"
dropped/               what was dropped, if output.dropped
quarantine/            what was set aside: 00012.jsonl
records/0/00012.json   shard 12 is done in pass 0, and this is what was counted
work/                  between passes; gone when the run is done
report.json            the sums; the run is done
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Names of a run's files."""

    path: Path

    @property
    def config(self) -> Path:
        """The config as it was used."""
        return self.path / "config.json"

    @property
    def plan(self) -> Path:
        """The shards."""
        return self.path / "plan.json"

    @property
    def report(self) -> Path:
        """The sums."""
        return self.path / "report.json"

    @property
    def lock(self) -> Path:
        """Held while a command works on the run."""
        return self.path / ".lock"

    @property
    def work(self) -> Path:
        """What is there between passes."""
        return self.path / "work"

    def documents(self, shard: int, part: int, suffix: str) -> Path:
        """A file of documents that are kept."""
        return self.path / "documents" / f"{shard:05d}-{part:03d}.{suffix}"

    @property
    def tokens(self) -> Path:
        """The prefix of the token files."""
        return self.path / "tokens"

    def shard_tokens(self, shard: int) -> Path:
        """The prefix of a shard's token files, which lie here until all are there."""
        return self.work / "tokens" / f"{shard:05d}"

    def dropped(self, shard: int, part: int, suffix: str) -> Path:
        """A file of documents that a pass dropped."""
        return self.path / "dropped" / f"{shard:05d}-{part:03d}.{suffix}"

    def quarantine(self, shard: int, number: int) -> Path:
        """What was set aside of a shard in a pass."""
        return self.path / "quarantine" / (f"{shard:05d}.jsonl" if number == 0 else f"{shard:05d}-pass{number}.jsonl")

    def record(self, number: int, shard: int) -> Path:
        """That a shard is done in a pass."""
        return self.path / "records" / str(number) / f"{shard:05d}.json"

    def between(self, number: int, shard: int) -> Path:
        """The documents of a shard behind a pass that is not the last."""
        return self.work / str(number) / f"{shard:05d}.jsonl.zst"

    def decisions(self, number: int, shard: int) -> Path:
        """What the global step behind a pass says of a shard's documents."""
        return self.work / f"{number}-decisions" / f"{shard:05d}.jsonl"

    def decided(self, number: int) -> Path:
        """All decisions of the global step behind a pass are there."""
        return self.work / f"{number}-decisions" / "done"
