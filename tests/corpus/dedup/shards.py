"""Shards of texts for the global steps, and ways to run them: alone, and on ranks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyjpllm.corpus.exchange import Alone
from pyjpllm.corpus.stage import Decision, GlobalStep


def write_shards(folder: Path, texts: Sequence[str], shards: int, metas: Sequence[dict[str, Any]] = ()) -> list[Path]:
    """The texts in order, cut into files; the last may be empty."""
    size = -(-len(texts) // shards)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shard-{number:05d}.jsonl" for number in range(shards)]
    for number, path in enumerate(paths):
        own = range(number * size, min((number + 1) * size, len(texts)))
        records = [{"text": texts[index], "meta": metas[index] if metas else {}} for index in own]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return paths


def run_alone(step: GlobalStep, shards: Sequence[Path]) -> dict[int, list[Decision]]:
    """The decisions of one process."""
    with tempfile.TemporaryDirectory() as folder:
        return step(shards, Alone(), Path(folder))


def by_number(decisions: dict[int, list[Decision]], texts: int, shards: int) -> dict[int, Decision]:
    """The decisions by the document's place among all texts."""
    size = -(-texts // shards)
    return {shard * size + d.document: d for shard, found in decisions.items() for d in found}


def apply(text: str, decision: Decision | None) -> str | None:
    """The text that is left; None when the document is dropped, or only white space is left of it."""
    if decision is None:
        return text
    if decision.reason is not None:
        return None
    for start, stop in reversed(decision.cuts):
        text = text[:start] + text[stop:]
    return text if text.strip() else None


def merged(ranks: Sequence[dict[int, list[Decision]]]) -> dict[int, list[Decision]]:
    """What all ranks decided; no shard is decided twice."""
    together: dict[int, list[Decision]] = {}
    for decisions in ranks:
        assert not together.keys() & decisions.keys()
        together |= decisions
    return together
