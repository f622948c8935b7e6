"""What the config of every stage and of every global step has."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pyjpllm.config.schema import Section
from pyjpllm.corpus.stage import GlobalStep, Stage


class StageConfig(Section, ABC):
    """A `[[stage]]` that judges documents one by one. Its class has `kind: Literal["..."]` and its own fields."""

    kind: str
    name: str = ""
    """Its name in the report, where a pipeline has two of a kind; by default the kind."""

    @abstractmethod
    def build(self) -> Stage:
        """The stage, made once a process. Raises UserError for a file that it needs and cannot read."""

    def judged_meta(self) -> frozenset[str]:
        """Numbers of the documents' meta that it judges, so that reading measures those that cost something."""
        return frozenset()


class GlobalStepConfig(Section, ABC):
    """A `[[stage]]` that needs all documents together: a pass ends before it and another begins after it."""

    kind: str
    name: str = ""
    """Its name in the report, where a pipeline has two of a kind; by default the kind."""

    @abstractmethod
    def build(self) -> GlobalStep:
        """The step, made once a rank."""
