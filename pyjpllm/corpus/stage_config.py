"""What the config of every stage and of every global step has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from pyjpllm.config.schema import Section
from pyjpllm.corpus.stage import GlobalStep, Stage
from pyjpllm.errors import UserError
from pyjpllm.files import sha256_of


def _no_time_of_our_own(name: str) -> str:
    if name in ("read", "write"):
        raise ValueError(f"{name!r} is what the report calls the time of the pipeline's own; take another name")
    return name


Name = Annotated[str, AfterValidator(_no_time_of_our_own)]


def checksum_of(path: Path) -> str:
    """The SHA-256 of a file that a stage reads. Raises UserError when it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


class _AnyStageConfig(Section, ABC):
    """What both kinds have in common."""

    kind: str
    name: Name = ""
    """Its name in the report, where a pipeline has two of a kind; by default the kind."""

    def files_read(self) -> Mapping[str, str]:
        """Checksums, by path, of the files that it reads beside the input: a run goes on with the same ones only.
        Raises UserError for one that cannot be read."""
        return {}


class StageConfig(_AnyStageConfig):
    """A `[[stage]]` that judges documents one by one. Its class has `kind: Literal["..."]` and its own fields."""

    @abstractmethod
    def build(self) -> Stage:
        """The stage, made once a process. Raises UserError for a file that it needs and cannot read."""

    def judged_meta(self) -> frozenset[str]:
        """Numbers of the documents' meta that it judges, so that reading measures those that cost something."""
        return frozenset()


class GlobalStepConfig(_AnyStageConfig):
    """A `[[stage]]` that needs all documents together: a pass ends before it and another begins after it."""

    @abstractmethod
    def build(self) -> GlobalStep:
        """The step, made once a rank."""

    def begin(self) -> None:
        """Called once, by one rank, before a new run's first shard. Raises UserError where what the step writes beside
        the run's folder cannot be written, or is another's."""
