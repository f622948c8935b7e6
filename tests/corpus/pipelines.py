"""Stages, global steps and small inputs for tests of the pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pyjpllm.corpus import Document, read_documents
from pyjpllm.corpus.config import CorpusConfig, InputConfig, OutputConfig, RunConfig
from pyjpllm.corpus.exchange import Exchange
from pyjpllm.corpus.stage import Decision, GlobalStep, Limits, Stage, Verdict
from pyjpllm.corpus.stage_config import GlobalStepConfig, StageConfig


class LengthConfig(StageConfig):
    """Drops short documents, and puts a mark before the others."""

    kind: Literal["test-length"] = "test-length"
    least: int = 6

    def build(self) -> Stage:
        return Length(self)


class Length:
    """Its stage. A document that holds "fail" makes it fail."""

    def __init__(self, config: LengthConfig) -> None:
        self.name = config.kind
        self._config = config
        self.limits: dict[str, Limits] = {"length": (config.least, None)}

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        return [self._judge(document) for document in documents]

    def _judge(self, document: Document) -> Verdict:
        if "fail" in document.text:
            raise ValueError("cannot do this one")
        measures = {"length": float(len(document.text))}
        if len(document.text) < self._config.least:
            return Verdict(document, "short", measures)
        return Verdict(Document("＊" + document.text, document.meta), None, measures)


class SameConfig(GlobalStepConfig):
    """Drops a text that came before, and cuts the mark away."""

    kind: Literal["test-same"] = "test-same"

    def build(self) -> GlobalStep:
        return Same()


class Same:
    """Its step."""

    name = "test-same"

    def __call__(self, shards: Sequence[Path], exchange: Exchange, folder: Path, /) -> dict[int, list[Decision]]:
        assert folder.is_dir()
        seen: set[str] = set()
        found: dict[int, list[Decision]] = {}
        for number, shard in enumerate(shards):
            for at, document in enumerate(read_documents(shard)):
                decision = Decision(at, "same") if document.text in seen else Decision(at, cuts=((0, 1),))
                seen.add(document.text)
                if number % exchange.size == exchange.rank:
                    found.setdefault(number, []).append(decision)
        return found


def inputs(folder: Path, *, files: int = 5, lines: int = 40) -> Path:
    """JSON Lines with short, long, equal and broken ones."""
    folder.mkdir(parents=True)
    for file in range(files):
        with open(folder / f"{file}.jsonl", "w", encoding="utf-8") as stream:
            for line in range(lines):
                text = "あ" * (line % 9 + 1) + str(line % 7 * (file % 2))
                stream.write(json.dumps({"text": text, "meta": {"n": line}}, ensure_ascii=False) + "\n")
            stream.write("[]\n\n")
    return folder


def pipeline(paths: Path, *, processes: int = 1, **fields: Any) -> CorpusConfig:
    """Two passes over ``paths``."""
    return CorpusConfig(
        input=InputConfig(paths=[str(paths)]),
        output=OutputConfig(**fields),
        run=RunConfig(processes=processes, shard_mib=1),
        stages=(LengthConfig(), SameConfig(), LengthConfig(name="again", least=5)),
    )


def contents(run: Path) -> dict[str, bytes]:
    """All files of a run that must be the same whoever made them."""
    found = {
        str(file.relative_to(run)): file.read_bytes()
        for folder in ("documents", "dropped", "quarantine")
        for file in sorted((run / folder).glob("**/*"))
        if file.is_file()
    }
    report = json.loads((run / "report.json").read_bytes())
    del report["seconds"]
    found["report.json"] = json.dumps(report).encode()
    return found
