"""One pass over one shard: read, through the stages, written whole or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pyjpllm.corpus.config import CorpusConfig, stage_name
from pyjpllm.corpus.counts import Counts, StageCounts, counts_from_json
from pyjpllm.corpus.decisions import decided
from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.faults import EXCERPT, Fault, Skip, excerpt_of
from pyjpllm.corpus.intake import Bounds, Extraction, Item, read_span
from pyjpllm.corpus.intake.html import LINK_FRACTION
from pyjpllm.corpus.layout import RunFolder
from pyjpllm.corpus.outputs import FaultWriter, SplitWriter, TokenSink
from pyjpllm.corpus.plan import Shard
from pyjpllm.corpus.stage import Stage, Verdict
from pyjpllm.corpus.stage_config import GlobalStepConfig, StageConfig
from pyjpllm.files import atomic_write

_Sized: TypeAlias = tuple[Document, int]  # a document and its bytes in UTF-8, which are counted once

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Pass:
    """The stages between two global steps. ``number`` from 0; ``step``: the name of the global step before it."""

    number: int
    stages: tuple[StageConfig, ...]
    step: GlobalStepConfig | None
    last: bool


def passes_of(config: CorpusConfig) -> list[Pass]:
    """The passes of a pipeline: one more than it has global steps."""
    passes: list[Pass] = []
    stages: list[StageConfig] = []
    step: GlobalStepConfig | None = None
    for stage in config.stages:
        if isinstance(stage, GlobalStepConfig):
            passes.append(Pass(len(passes), tuple(stages), step, last=False))
            stages, step = [], stage
        else:
            stages.append(stage)
    return [*passes, Pass(len(passes), tuple(stages), step, last=True)]


class Job:
    """One pass, as a process does it: its stages are built once."""

    def __init__(
        self, config: CorpusConfig, folder: RunFolder, work: Pass, shards: Sequence[Shard], tokens: TokenSink | None
    ) -> None:
        """Raises UserError for a stage that cannot be built."""
        self._config = config
        self._folder = folder
        self._pass = work
        self._shards = shards
        self._tokens = tokens
        self._bounds = Bounds(config.input.max_document_mib << 20, config.input.max_ratio)
        self._stages: list[tuple[str, Stage]] = [(stage_name(stage), stage.build()) for stage in work.stages]
        links = any(LINK_FRACTION in stage.judged_meta() for stage in config.stages if isinstance(stage, StageConfig))
        self._extraction = Extraction(config.input.extract, links)

    def run(self, number: int) -> Counts:
        """Do shard ``number`` and record it. The same bytes whenever and by whomever it is done."""
        counts = Counts(stages=[StageCounts(name) for name, _ in self._stages])
        if self._pass.step is not None:
            counts.stages.insert(0, StageCounts(stage_name(self._pass.step)))
        suffix = self._config.output.text_format
        if self._pass.last and self._tokens is not None:
            kept = SplitWriter(lambda _: self._folder.shard_tokens(number), None, self._tokens.writer)
        elif self._pass.last:
            kept = SplitWriter(lambda part: self._folder.documents(number, part, suffix), self._config.output.file_mib)
        else:
            kept = SplitWriter(lambda _: self._folder.between(self._pass.number, number), None)
        with (
            kept,
            SplitWriter(lambda _: self._folder.dropped(number, self._pass.number, suffix), None) as dropped,
            FaultWriter(self._folder.quarantine(number, self._pass.number)) as faults,
        ):
            sink = _Sink(counts, kept, dropped if self._config.output.dropped else None, faults)
            if not self._pass.last:
                kept.begin()  # the global step wants a file of every shard
            for batch in self._batches(number, sink):
                self._through(batch, sink)
        with atomic_write(self._folder.record(self._pass.number, number)) as temporary:
            temporary.write_text(json.dumps(counts.as_json(), ensure_ascii=False) + "\n", encoding="utf-8")
        return counts

    def _batches(self, number: int, sink: _Sink) -> Iterator[list[_Sized]]:
        """The shard's documents, some at a time; what was set aside is written on the way."""
        batch: list[_Sized] = []
        characters = 0
        clock = time.thread_time
        began = clock()
        for item in self._items(number, sink):
            if isinstance(item, Skip):
                sink.counts.skipped[item.reason] = sink.counts.skipped.get(item.reason, 0) + 1
            elif isinstance(item, Fault):
                sink.set_aside(item)
            else:
                try:
                    size = len(item.text.encode())
                except UnicodeEncodeError:
                    detail = "the text holds half of a surrogate pair, which is no character"
                    sink.set_aside(
                        Fault("half-a-pair", str(item.meta.get("url", "")), 0, detail, excerpt_of(item.text))
                    )
                    continue
                if self._pass.number == 0:
                    sink.counts.read.add(item, size)
                batch.append((item, size))
                characters += len(item.text)
                if len(batch) >= _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
                    sink.counts.spend("read", clock() - began)
                    yield batch
                    batch, characters = [], 0
                    began = clock()
        sink.counts.spend("read", clock() - began)
        if batch:
            yield batch

    def _items(self, number: int, sink: _Sink) -> Iterator[Item]:
        if self._pass.number == 0:
            for span in self._shards[number].spans:
                yield from read_span(span, self._bounds, self._extraction)
            return
        before = self._pass.number - 1
        stage = sink.counts.stages[0]
        documents = self._folder.between(before, number)
        for whole, verdict in decided(documents, self._folder.decisions(before, number)):
            left = sink.count(stage, verdict, (whole, len(whole.text.encode())))
            if left is not None:
                yield left[0]

    def _through(self, batch: list[_Sized], sink: _Sink) -> None:
        """One batch through all stages."""
        counted = sink.counts.stages[len(sink.counts.stages) - len(self._stages) :]
        for (name, stage), counts in zip(self._stages, counted, strict=True):
            began = time.thread_time()
            verdicts = _judged(name, stage, [document for document, _ in batch])
            sink.counts.spend(name, time.thread_time() - began)
            came, batch = batch, []
            for before, verdict in zip(came, verdicts, strict=True):
                if isinstance(verdict, Fault):
                    sink.set_aside(verdict)
                    continue
                left = sink.count(counts, verdict, before)
                if left is not None:
                    batch.append(left)
        began = time.thread_time()
        for document, size in batch:
            sink.keep(document, size)
        sink.counts.spend("write", time.thread_time() - began)


def _judged(name: str, stage: Stage, batch: list[Document]) -> list[Verdict | Fault]:
    """A verdict for each document. Where the stage fails the documents are given to it one by one, and those that it
    fails on are set aside."""
    try:
        verdicts = stage(batch)
        if len(verdicts) != len(batch):
            raise RuntimeError(f"{len(verdicts)} verdicts for {len(batch)} documents")
        return list(verdicts)
    except Exception as error:
        if len(batch) > 1:
            return [verdict for document in batch for verdict in _judged(name, stage, [document])]
        (document,) = batch
        detail = f"stage {name}: {type(error).__name__}: {error}"
        url = str(document.meta.get("url", ""))
        return [Fault("stage-failed", url, 0, detail, document.text[:EXCERPT])]


class _Sink:
    """Where documents go, and where they are counted."""

    def __init__(self, counts: Counts, kept: SplitWriter, dropped: SplitWriter | None, faults: FaultWriter) -> None:
        self.counts = counts
        self._kept = kept
        self._dropped = dropped
        self._faults = faults

    def set_aside(self, fault: Fault) -> None:
        """Write and count something that is no document."""
        self.counts.set_aside[fault.reason] = self.counts.set_aside.get(fault.reason, 0) + 1
        self._faults.add(fault)

    def count(self, stage: StageCounts, verdict: Verdict, came: _Sized) -> _Sized | None:
        """Count what a stage said of a document that came to it as ``came``; the document if it stays."""
        document = verdict.document
        before, size = came
        stage.read.add(before, size)
        stage.measure(verdict.measures)
        if verdict.reason is not None:
            stage.drop(verdict.reason, before, size)
            if self._dropped is not None:
                meta = {**document.meta, "dropped": {"stage": stage.name, "reason": verdict.reason}}
                self._dropped.add(Document(document.text, meta), size)
            return None
        if document.text != before.text:
            stage.changed += 1
            size = len(document.text.encode())
        stage.kept.add(document, size)
        return document, size

    def keep(self, document: Document, size: int) -> None:
        """Write a document that has come through."""
        self.counts.written.add(document, size)
        self._kept.add(document, size)


def recorded(folder: RunFolder, number: int, shard: int) -> Counts | None:
    """What was counted of a shard in a pass; None where it is not done."""
    try:
        values = json.loads(folder.record(number, shard).read_bytes())
    except FileNotFoundError:
        return None
    return counts_from_json(values)
