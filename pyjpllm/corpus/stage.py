"""A stage: what stands between reading and writing, and says of each document whether it is kept and why not.
A global step: the same for what only all documents together can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pyjpllm.corpus.documents import Document

if TYPE_CHECKING:
    from pyjpllm.corpus.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a stage says of one document."""

    document: Document
    """As it is after the stage: the text may have changed."""
    reason: str | None = None
    """The name of the rule that dropped it; None keeps it."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """What was measured, by name."""


class Stage(Protocol):
    """Judges documents one by one, a batch at a time.

    A verdict depends on its document alone, never on its neighbours or on the batch's size: the output must not depend
    on how the work is cut. The pipeline gives every process a stage of its own, made by its config's ``build``, and
    calls it from one thread.
    """

    name: str
    """Names the stage in reports; unique in a pipeline."""

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        """One verdict for each document, in their order. Raises nothing for any text that UTF-8 can hold."""
        ...


Limits = tuple[float | None, float | None]
"""The least and the most that a measure may be; None: no such limit."""


@runtime_checkable
class WithLimits(Protocol):
    """A stage that can say where its limits lie, for the histograms of `jpllm corpus stats`."""

    limits: Mapping[str, Limits]
    """By the name of the measure."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a global step says of one document that it does not simply keep."""

    document: int
    """Which one of its shard, counted from 0."""
    reason: str | None = None
    """The name of the rule that drops the whole document."""
    cuts: tuple[tuple[int, int], ...] = ()
    """Ranges of characters (from, to) that are taken out of a document that stays; ascending, apart."""


class GlobalStep(Protocol):
    """A step that must see all documents, such as deduplication. It runs between two passes, when the documents of the
    pass before it are on disk, and is collective: every rank calls it with the same shards.
    """

    name: str
    """Names the step in reports; unique in a pipeline."""

    def __call__(self, shards: Sequence[Path], exchange: Exchange, folder: Path, /) -> dict[int, list[Decision]]:
        """The decisions about the shards ``exchange.rank``, ``exchange.rank + exchange.size``, ... of ``shards``.

        ``shards``: one file of documents each (``pyjpllm.corpus.read_documents``), in their order. ``folder``: for
        files of its own, empty when it starts, removed when it has ended. A shard without decisions is left out; the
        decisions of a shard ascend by document. The result must not depend on ``exchange.size``.
        """
        ...
