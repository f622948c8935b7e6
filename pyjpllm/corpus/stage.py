"""A stage: what stands between reading and writing, and says of each document whether it is kept and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pyjpllm.corpus.documents import Document


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
