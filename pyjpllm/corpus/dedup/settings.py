"""The `[[stage]]` tables of the global steps that deduplicate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pyjpllm.config.schema import Fraction, NonNegative, Positive
from pyjpllm.corpus.dedup.documents import CopiesStep, Keep, NearCopiesStep
from pyjpllm.corpus.dedup.lines import RepeatedUnitsStep, Unit
from pyjpllm.corpus.dedup.lsh import solve_banding
from pyjpllm.corpus.dedup.minhash import MinHasher
from pyjpllm.corpus.dedup.signatures import SUFFIX, checksums
from pyjpllm.corpus.dedup.substrings import RepeatedSubstringsStep
from pyjpllm.corpus.folding import Folding
from pyjpllm.corpus.stage import GlobalStep
from pyjpllm.corpus.stage_config import GlobalStepConfig
from pyjpllm.errors import UserError

Point = Annotated[list[float], Field(min_length=2, max_length=2)]


class _DocumentsConfig(GlobalStepConfig):
    folding: Folding = "width"
    """What does not count when texts are compared. `none`: every character counts; `width`: NFKC (full and half width),
    case, and how much white space; `letters`: that, and all but letters and digits; `no-digits`: that, and digits."""
    keep: Keep = "longest"
    """Which of several stays: the `longest` or the `earliest`; of equals the earliest."""
    measure: str | None = None
    """A number in the documents' meta: the one with the greatest stays, and `keep` is not asked."""
    against: list[str] = Field(default=[])
    """Signature files of other corpora, or folders of them: documents that are found there are dropped."""
    save: str | None = None
    """A folder for the signature files of what stays, for a later `against`."""

    @model_validator(mode="after")
    def _one_rule(self) -> _DocumentsConfig:
        if self.measure is not None and "keep" in self.model_fields_set:
            raise ValueError("measure and keep are two rules for the same thing: leave one out")
        return self

    @model_validator(mode="after")
    def _others_only(self) -> _DocumentsConfig:
        if self.save is not None:
            folder = Path(self.save).resolve()
            for place in self.against:
                if folder in (Path(place).resolve(), Path(place).resolve().parent):
                    raise ValueError(
                        f"save = {self.save!r} is compared against ({place!r}), and a run that goes on would find its "
                        "own documents there: save them in another folder"
                    )
        return self

    def files_read(self) -> Mapping[str, str]:
        """The signature files of ``against``."""
        return checksums(self.against, self._step().settings)

    def begin(self) -> None:
        """Makes the folder ``save``; signatures of an earlier run may not lie there."""
        if self.save is None:
            return
        folder = Path(self.save)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            there = next(folder.glob(f"*{SUFFIX}"), None)
        except OSError as error:
            raise UserError(f"stage.save = {self.save!r}: no folder can be made there ({error.strerror})") from None
        if there is not None:
            raise UserError(
                f"stage.save = {self.save!r}: has signatures of another run ({there.name}); name a new folder"
            )

    def build(self) -> GlobalStep:
        """The step. Raises UserError for signature files that are not there or do not fit."""
        checksums(self.against, self._step().settings)
        return self._step()

    @abstractmethod
    def _step(self) -> CopiesStep | NearCopiesStep: ...


class CopiesConfig(_DocumentsConfig):
    """Drops documents that equal another one (`copy`; `copy-elsewhere`: one of `against`)."""

    kind: Literal["dedup-exact"]

    def _step(self) -> CopiesStep:
        name = self.name or self.kind
        return CopiesStep(name, self.folding, self.keep, self.measure, tuple(self.against), self.save)


class NearCopiesConfig(_DocumentsConfig):
    """Drops documents that are similar to another one by MinHash-LSH (`near-copy`; `near-copy-elsewhere`)."""

    kind: Literal["dedup-minhash"]
    n: Annotated[int, Field(ge=1, le=1000)] = 5
    """Characters of a gram."""
    bands: Annotated[int, Field(ge=1, le=10_000)] = 14
    """Bands of a signature: a pair that agrees in any is one."""
    rows: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Values of a band. A pair of Jaccard similarity s is found with probability 1 - (1 - s^rows)^bands."""
    found: Point | None = None
    """[similarity, probability]: instead of `bands` and `rows`, the fewest that find pairs so similar so often ..."""
    spared: Point | None = None
    """[similarity, probability]: ... and pairs so similar at most so often."""
    verify: Fraction | None = None
    """Candidates are copies only where their signatures agree in this share of their values, which estimates the
    similarity; by default every candidate is one. Takes 4 bytes of disk a hash function and document."""
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    """Of the hash functions."""

    @model_validator(mode="after")
    def _one_curve(self) -> NearCopiesConfig:
        if (self.found is None) != (self.spared is None):
            raise ValueError("found and spared describe one curve: give both or none")
        if self.found is not None and {"bands", "rows"} & self.model_fields_set:
            raise ValueError("bands and rows follow from found and spared: leave them out")
        if self.verify is not None and self.against:
            raise ValueError("verify compares signatures, and the files of against hold none: leave one out")
        return self

    def build(self) -> GlobalStep:
        """The step. Raises UserError when no banding has the curve, and for signature files that do not fit."""
        return super().build()

    def _step(self) -> NearCopiesStep:
        name = self.name or self.kind
        bands, rows = self.bands, self.rows
        if self.found is not None and self.spared is not None:
            bands, rows = solve_banding((self.found[0], self.found[1]), (self.spared[0], self.spared[1]))
        hasher = MinHasher(self.n, bands, rows, self.seed)
        against = tuple(self.against)
        return NearCopiesStep(name, self.folding, self.keep, self.measure, against, self.save, hasher, self.verify)


class RepeatedUnitsConfig(GlobalStepConfig):
    """Cuts lines or paragraphs that stand earlier in the corpus."""

    kind: Literal["dedup-units"]
    unit: Unit = "paragraph"
    """`line`, or `paragraph`: lines up to a blank one."""
    folding: Folding = "width"
    """As for documents."""
    min_characters: NonNegative = 20
    """Shorter ones, counted once folded, stay."""
    min_copies: Annotated[int, Field(ge=2)] = 2
    """Cut what stands in at least so many places ..."""
    keep: NonNegative = 1
    """... but for the first ones, so many; 0 cuts all."""

    def build(self) -> GlobalStep:
        """The step."""
        name = self.name or self.kind
        return RepeatedUnitsStep(name, self.unit, self.folding, self.min_characters, self.min_copies, self.keep)


class RepeatedSubstringsConfig(GlobalStepConfig):
    """Cuts passages that stand earlier in the corpus, wherever they begin and end."""

    kind: Literal["dedup-substrings"]
    length: Annotated[int, Field(ge=2, le=1_000_000)] = 100
    """Every passage of so many characters that stands earlier is found."""
    slack: Positive = 16
    """Fewer than this of its characters may stay at each end; at most half of `length`. Smaller takes more disk."""

    @model_validator(mode="after")
    def _windows_touch(self) -> RepeatedSubstringsConfig:
        if self.slack > self.length // 2:
            raise ValueError(f"slack = {self.slack}: at most half of length ({self.length // 2})")
        return self

    def build(self) -> GlobalStep:
        """The step."""
        return RepeatedSubstringsStep(self.name or self.kind, self.length, self.slack)
