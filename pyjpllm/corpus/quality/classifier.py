"""A linear classifier over hashed character n-grams: what it says of texts, and its file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjpllm import _text
from pyjpllm.corpus.quality.calibration import Calibration
from pyjpllm.corpus.quality.labels import Label
from pyjpllm.corpus.quality.modelfile import read_model, write_model
from pyjpllm.errors import UserError, did_you_mean

KIND = "classifier"


@dataclass(frozen=True)
class Classifier:
    """Labels, L of them, of texts. ``O`` outputs: one for two labels, which speaks for the second; else L."""

    labels: tuple[Label, ...]
    """Ascending."""
    good: Label
    """The label, or the least of several that are numbers, that documents should have."""
    weights_BO: NDArray[np.float32]
    """By bucket; kernels/text/linear.h has the hashing."""
    bias_O: NDArray[np.float64]
    longest: int
    """Characters of the longest n-grams."""
    characters: int
    """Of a text are looked at, from its beginning."""
    calibration: Calibration
    report: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained, and how good it is on documents that were held out."""

    @property
    def numeric(self) -> bool:
        """Whether the labels are numbers."""
        return not isinstance(self.labels[0], str)

    def raw(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores [N, L] before calibration."""
        heads = [text[: self.characters] for text in texts]
        scores_NO = _text.linear_scores(heads, self.weights_BO, self.bias_O, self.longest)
        return with_first(scores_NO)

    def probabilities(self, texts: Sequence[str]) -> list[list[float]]:
        """The probabilities of the labels for each text."""
        return [self.calibration(scores) for scores in self.raw(texts).tolist()]

    def scores(self, texts: Sequence[str], label: Label | None = None) -> list[float]:
        """One number a text: the probability of ``label``; without one the expected value of labels that are numbers,
        or the probability of ``good``."""
        values = self.values(label)
        return [math.fsum(map(float.__mul__, values, p)) for p in self.probabilities(texts)]

    def values(self, label: Label | None = None) -> list[float]:
        """What each label's probability counts in the score. Raises UserError for a label that is none."""
        if label is None and self.numeric:
            return [float(value) for value in self.labels]
        chosen = self.good if label is None else label
        if chosen not in self.labels:
            raise UserError(f"no label {chosen!r}{did_you_mean(str(chosen), map(str, self.labels))}")
        return [float(each == chosen) for each in self.labels]

    def is_good(self, label: Label) -> bool:
        """Whether documents with this label are what is wanted."""
        return label >= self.good if self.numeric else label == self.good  # type: ignore[operator]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model's file, whole or not at all."""
        header = {
            "labels": list(self.labels),
            "good": self.good,
            "longest": self.longest,
            "characters": self.characters,
            "scale": self.calibration.scale,
            "shifts": list(self.calibration.shifts),
            "report": dict(self.report),
        }
        write_model(path, KIND, header, {"weights": self.weights_BO, "bias": self.bias_O})


def with_first(scores_NO: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of all labels, of those of the outputs: where one speaks for the second label the first has 0."""
    if scores_NO.shape[1] > 1:
        return scores_NO
    return np.concatenate([np.zeros_like(scores_NO), scores_NO], 1)


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """The classifier of a file. Raises UserError for one that is missing, damaged or something else."""
    header, arrays = read_model(path, KIND)
    return Classifier(
        labels=tuple(header["labels"]),
        good=header["good"],
        weights_BO=arrays["weights"],
        bias_O=arrays["bias"],
        longest=header["longest"],
        characters=header["characters"],
        calibration=Calibration(header["scale"], tuple(header["shifts"])),
        report=header["report"],
    )
