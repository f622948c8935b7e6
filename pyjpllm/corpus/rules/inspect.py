"""What `jpllm corpus inspect` shows: for documents of a file, what each rule measured and decided."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.faults import EMPTIED
from pyjpllm.corpus.rules.highlight import Range, highlight
from pyjpllm.corpus.rules.known import Finding
from pyjpllm.corpus.rules.stage import RulesStage
from pyjpllm.errors import UserError


@dataclass(frozen=True)
class Inspected:
    """One document, its place in the input (from 0), and what the rules say of it."""

    index: int
    document: Document
    findings: list[Finding]
    measures: dict[str, float]
    ranges: list[Range]
    """Characters of the text that the first rule against it has counted."""
    before: int
    """Characters of the text before the preset's edits."""
    emptied: bool
    """Whether the rules keep it and the edits leave nothing."""

    @property
    def reason(self) -> Finding | None:
        """The first rule that drops the document; None: the rules keep it."""
        return next((finding for finding in self.findings if not finding.kept), None)

    @property
    def against(self) -> str | None:
        """The name of what drops the document: a rule, or the edits that leave nothing; None: kept."""
        reason = self.reason
        return reason.rule.name if reason is not None else EMPTIED if self.emptied else None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "index": self.index,
            "kept": self.against is None,
            "reason": self.against,
            "characters": len(self.document.text),
            "characters_before_edits": self.before,
            "rules": [
                {
                    "rule": f.rule.name,
                    "measure": f.rule.measure or f.rule.meta,
                    "value": f.value,
                    "bounds": f.rule.bounds(),
                    "kept": f.kept,
                }
                for f in self.findings
            ],
            "ranges": [list(each) for each in self.ranges],
        }


def choose(documents: Iterable[Document], *, index: int | None, sample: int, seed: int) -> list[tuple[int, Document]]:
    """One document by its place, or so many drawn evenly from all, in their order. Raises UserError when none is there.

    The draw reads the input once and holds no more than it gives back.
    """
    if index is not None:
        found = next(itertools.islice(documents, index, None), None)
        if found is None:
            raise UserError(f"--index {index}: the input has no such document; they are counted from 0")
        return [(index, found)]
    draw = random.Random(seed)
    kept: list[tuple[int, Document]] = []
    for i, document in enumerate(documents):
        if len(kept) < sample:
            kept.append((i, document))
        elif (place := draw.randrange(i + 1)) < sample:
            kept[place] = (i, document)
    if not kept:
        raise UserError("the input holds no document")
    return sorted(kept, key=lambda pair: pair[0])


def inspect(stage: RulesStage, index: int, document: Document) -> Inspected:
    """Judge a document, and find the reason in its text; that of a kept one is shown with the preset's edits."""
    changed, findings, measures = stage.judge(document)
    reason = next((finding for finding in findings if not finding.kept), None)
    ranges: list[Range] = []
    if reason is not None and reason.rule.measure is not None:
        ranges = highlight(reason.rule.measure, changed.text, lists=stage.words, words=stage.words_of(changed.text))
    emptied = reason is None and stage.empties(changed)
    return Inspected(index, changed, findings, measures, ranges, len(document.text), emptied)


def number(value: float) -> str:
    """A measure for a table: whole, or four digits."""
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def shown(finding: Finding) -> str:
    """What a rule measured or saw, for a table."""
    return finding.seen if finding.value is None else number(finding.value)


def decision(one: Inspected) -> str:
    """The decision in words, with what the preset's edits have left of the text."""
    if one.emptied:
        return f"dropped, {EMPTIED} by the edits of the preset"
    if one.against is not None:
        return f"dropped by {one.against}"
    left = len(one.document.text)
    return (
        "kept" if left == one.before else f"kept, {left:,} of {one.before:,} characters after the edits of the preset"
    )


def lines(one: Inspected) -> list[str]:
    """The document for a terminal: the decision, then a line a rule."""
    head = f"document {one.index}: {decision(one)}"
    width = max((len(f.rule.name) for f in one.findings), default=0)
    out = [head]
    for finding in one.findings:
        value = shown(finding)
        mark = " " if finding.kept else "x"
        out.append(f"  {mark} {finding.rule.name:{width}}  {value:>11}  {finding.rule.bounds()}")
    return out
