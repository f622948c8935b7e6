"""The stages `classifier` and `perplexity`: a number of a trained model for each document, and what it must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pyjpllm.config.schema import PositiveFloat
from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.quality.classifier import load_classifier
from pyjpllm.corpus.quality.modelfile import checksum_in
from pyjpllm.corpus.quality.perplexity import load_language_model
from pyjpllm.corpus.stage import Limits, Stage, Verdict
from pyjpllm.corpus.stage_config import StageConfig
from pyjpllm.errors import UserError

_DIGITS = 6  # of a number in the meta
# Of a score in the histogram, which would be drawn in even ratios down to the smallest one if that were 1e-7.
_DRAWN_DIGITS = 2


class _ModelConfig(StageConfig):
    model: str
    """The model's file."""
    mode: Literal["drop", "mark"] = "drop"
    """`drop` drops documents beyond the limits; `mark` keeps all, and the limits are only drawn in the histogram. Both
    write the number into the meta."""

    def files_read(self) -> Mapping[str, str]:
        """The model."""
        return {self.model: checksum_in(self.model)}


class ClassifierConfig(_ModelConfig):
    """Scores documents by a classifier of `jpllm corpus classifier train`; docs/corpus-quality.md."""

    kind: Literal["classifier"]
    label: str | float | None = None
    """The score is this label's probability; by default the expected value of labels that are numbers, or the
    probability of the label that was named as good when the classifier was trained."""
    min_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Documents with a lower score are dropped (`low-score`)."""
    field: Annotated[str, Field(min_length=1)] = "score"
    """Of the meta, where the score goes: `measure` of the deduplication can name it."""

    @model_validator(mode="after")
    def _something_to_do(self) -> ClassifierConfig:
        if self.mode == "drop" and self.min_score is None:
            raise ValueError('min_score is missing; mode = "mark" needs none')
        return self

    def build(self) -> Stage:
        """The stage. Raises UserError for a model that cannot be read, a label it does not have, and a limit that no
        score passes."""
        classifier = load_classifier(self.model)
        try:
            values = classifier.values(self.label)
        except UserError as error:
            raise UserError(f"stage.label = {self.label!r}: {self.model} has {error}") from None
        low, high = min(values), max(values)
        if self.min_score is not None and not low <= self.min_score <= high:
            raise UserError(
                f"stage.min_score = {self.min_score:g}: scores of {self.model} lie between {low:g} and {high:g}"
            )
        return ScoreStage(
            self.name or self.kind, self.field, "score", lambda texts: classifier.scores(texts, self.label),
            (self.min_score, None), ("low-score", ""), self.mode == "drop", _DRAWN_DIGITS,
        )  # fmt: skip


class PerplexityConfig(_ModelConfig):
    """Measures the perplexity per character by a language model of `jpllm corpus perplexity train`."""

    kind: Literal["perplexity"]
    max_perplexity: PositiveFloat | None = None
    """Documents with more are dropped (`high-perplexity`): they are unlike what the model was trained on."""
    min_perplexity: PositiveFloat | None = None
    """Documents with less are dropped (`low-perplexity`): runs of one character, phrases the text was full of."""
    field: Annotated[str, Field(min_length=1)] = "perplexity"
    """Of the meta, where the perplexity goes."""

    @model_validator(mode="after")
    def _limits_in_order(self) -> PerplexityConfig:
        low, high = self.min_perplexity, self.max_perplexity
        if self.mode == "drop" and low is None and high is None:
            raise ValueError('max_perplexity or min_perplexity is missing; mode = "mark" needs none')
        if low is not None and high is not None and low >= high:
            raise ValueError(f"min_perplexity ({low:g}) must be less than max_perplexity ({high:g})")
        return self

    def build(self) -> Stage:
        """The stage. Raises UserError for a model that cannot be read."""
        model = load_language_model(self.model)
        return ScoreStage(
            self.name or self.kind, self.field, "perplexity", model.perplexities,
            (self.min_perplexity, self.max_perplexity), ("low-perplexity", "high-perplexity"), self.mode == "drop",
        )  # fmt: skip


class ScoreStage:
    """Both stages: a number a document, which goes into the meta, and what lies beyond the limits is dropped."""

    def __init__(
        self,
        name: str,
        field: str,
        measure: str,
        scores: Callable[[Sequence[str]], list[float]],
        limits: Limits,
        reasons: tuple[str, str],
        drops: bool,
        drawn_digits: int = _DIGITS,
    ) -> None:
        """``reasons``: for numbers below the first limit, and for those above the second. ``drawn_digits``: decimals
        of the measure, which is for the histogram alone."""
        self.name = name
        self.limits: dict[str, Limits] = {measure: limits}
        self._field = field
        self._measure = measure
        self._scores = scores
        self._low, self._high = limits
        self._reasons = reasons
        self._drops = drops
        self._drawn_digits = drawn_digits

    def __call__(self, documents: Sequence[Document], /) -> list[Verdict]:
        """One verdict a document, with the number as its measure."""
        scores = self._scores([document.text for document in documents])
        return [self._judge(document, score) for document, score in zip(documents, scores, strict=True)]

    def _judge(self, document: Document, score: float) -> Verdict:
        reason = None
        if self._drops and self._low is not None and score < self._low:
            reason = self._reasons[0]
        elif self._drops and self._high is not None and score > self._high:
            reason = self._reasons[1]
        marked = replace(document, meta={**document.meta, self._field: round(score, _DIGITS)})
        return Verdict(marked, reason, {self._measure: round(score, self._drawn_digits)})
