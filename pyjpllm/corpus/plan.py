"""How inputs are cut into shards: always the same way for the same files, whoever does the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyjpllm.corpus.inputs import suffix_of
from pyjpllm.corpus.intake import SUFFIXES, Span
from pyjpllm.corpus.intake.parquet import row_groups


@dataclass(frozen=True)
class Shard:
    """The unit of work: what one process reads at a time, and what it writes whole or not at all."""

    spans: tuple[Span, ...]

    def as_json(self) -> list[list[str | int | None]]:
        """As plain values."""
        return [
            [str(span.path), span.start, span.end, *([str(span.original), span.by] if span.original else [])]
            for span in self.spans
        ]


def shard_from_json(values: Sequence[Sequence[str | int | None]]) -> Shard:
    """The shard that ``Shard.as_json`` wrote."""
    return Shard(tuple(_span_from_json(*value) for value in values))


def _span_from_json(path: Any, start: Any, end: Any, original: Any = None, by: Any = "") -> Span:
    return Span(Path(path), start, end, None if original is None else Path(original), by)


def plan_shards(files: Sequence[Path], shard_bytes: int, pairs: Sequence[Span] = ()) -> list[Shard]:
    """The shards of ``files`` and of ``pairs`` of pages, in their order: small files together until they reach
    ``shard_bytes``, a large plain JSON Lines or Parquet file in parts of about that much."""
    shards: list[Shard] = []
    gathered: list[Span] = []
    size = 0
    for spans in (*(_spans(file, shard_bytes) for file in files), ((pair, _size(pair.path)) for pair in pairs)):
        for span, weight in spans:
            if gathered and size + weight > shard_bytes:
                shards.append(Shard(tuple(gathered)))
                gathered, size = [], 0
            gathered.append(span)
            size += weight
    if gathered:
        shards.append(Shard(tuple(gathered)))
    return shards


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # reading it says what is wrong with it


def _spans(file: Path, shard_bytes: int) -> Iterator[tuple[Span, int]]:
    size = _size(file)
    suffix = suffix_of(file, SUFFIXES)
    if size <= shard_bytes or suffix not in (".jsonl", ".parquet"):
        yield Span(file), size
    elif suffix == ".jsonl":
        parts = -(-size // shard_bytes)
        for part in range(parts):
            start, end = part * size // parts, (part + 1) * size // parts
            yield Span(file, start, end), end - start
    else:
        yield from _groups(file, size, shard_bytes)


def _groups(file: Path, size: int, shard_bytes: int) -> Iterator[tuple[Span, int]]:
    sizes = row_groups(file)
    if not sizes:
        yield Span(file), size
        return
    start, held = 0, 0
    for number, group in enumerate(sizes):
        if number > start and held + group > shard_bytes:
            yield Span(file, start, number), held
            start, held = number, 0
        held += group
    yield Span(file, start, len(sizes)), held
