"""What a global step decided, from one pass to the next: a file of JSON Lines for each shard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.readers import read_file
from pyjpllm.corpus.stage import Decision, Verdict
from pyjpllm.files import atomic_write

NOTHING_LEFT = "nothing-left"
"""Why a document is dropped of which the cuts leave only white space."""


def write_decisions(path: Path, decisions: Sequence[Decision]) -> None:
    """Write the decisions about a shard."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        for decision in decisions:
            stream.write(json.dumps([decision.document, decision.reason, decision.cuts]) + "\n")


def read_decisions(path: Path) -> dict[int, Decision]:
    """The decisions about a shard, by document."""
    found: dict[int, Decision] = {}
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            document, reason, cuts = json.loads(line)
            found[document] = Decision(document, reason, tuple((start, end) for start, end in cuts))
    return found


def decided(documents: Path, decisions: Path) -> Iterator[tuple[Document, Verdict]]:
    """Each document of a shard, and what the global step decided about it."""
    found = read_decisions(decisions)
    for number, document in enumerate(read_file(documents)):
        decision = found.get(number)
        if decision is None:
            yield document, Verdict(document)
        elif decision.reason is not None:
            yield document, Verdict(document, decision.reason)
        else:
            text = cut(document.text, decision.cuts)
            yield document, Verdict(Document(text, document.meta), None if text.strip() else NOTHING_LEFT)


def cut(text: str, cuts: Sequence[tuple[int, int]]) -> str:
    """``text`` without the ranges of ``cuts``, which ascend and lie apart."""
    parts: list[str] = []
    at = 0
    for start, end in cuts:
        parts.append(text[at:start])
        at = end
    return "".join((*parts, text[at:]))
