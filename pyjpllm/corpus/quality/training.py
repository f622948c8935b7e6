"""Trains a classifier, calibrates it on documents that were held out, and tests it on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjpllm import _text
from pyjpllm.corpus.quality import metrics
from pyjpllm.corpus.quality.calibration import fit, none
from pyjpllm.corpus.quality.classifier import Classifier
from pyjpllm.corpus.quality.labels import POSITIVE, Example, Label, labels_of, part_of
from pyjpllm.errors import UserError, did_you_mean

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Settings:
    """How a classifier is trained."""

    longest: int = 4
    """Characters of the longest n-grams; all shorter ones count as well."""
    bits: int = 20
    """Of the buckets' number: 2^bits of them, 8 bytes each and output while training, 4 in the model."""
    characters: int = 3000
    """Of a document are looked at, from its beginning."""
    epochs: int = 5
    """Passes over the documents."""
    rate: float = 0.3
    """AdaGrad's step."""
    held_out: float = 0.2
    """Share of documents that are not trained on: half for calibration, half for the test."""
    seed: int = 0
    """Of the split and of the order."""


def train_classifier(
    examples: Sequence[Example],
    settings: Settings = Settings(),
    *,
    good: Label | None = None,
    field: str = "label",
    progress: Callable[[str], None] = lambda _: None,
) -> Classifier:
    """A classifier of the examples' labels. The same examples and settings give the same bits.

    ``good``: the label whose probability is the score, for names; for numbers, the least that counts as good where
    documents are judged (by default the greatest). ``field``: where the labels were, for the report. Raises UserError
    where the labels are no two or more, where a part has not all of them, and for a ``good`` that is none of them.
    """
    labels = labels_of(examples)
    chosen = _good(labels, good)
    parts: dict[str, list[Example]] = {"train": [], "calibrate": [], "test": []}
    for example in examples:
        parts[part_of(example.text, settings.seed, settings.held_out)].append(example)
    for name, members in parts.items():
        there = {example.label for example in members}
        missing = next((label for label in labels if label not in there), None)
        if missing is not None:
            raise UserError(
                f"of {len(examples)} documents {len(members)} are there to {name}, and none has the label "
                f"{str(missing)!r}: give more documents, or another share to hold out ({settings.held_out})"
            )
    weights_BO, bias_O = _fit(parts["train"], labels, settings, progress)
    untuned = Classifier(tuple(labels), chosen, weights_BO, bias_O, settings.longest, settings.characters,
                         none(len(labels)))  # fmt: skip
    calibrate = parts["calibrate"]
    tuned = replace(untuned, calibration=fit(untuned.raw([one.text for one in calibrate]), numbers(untuned, calibrate)))
    report = {
        "settings": asdict(settings),
        "field": field,
        "documents": {name: len(members) for name, members in parts.items()},
        "labels": {str(label): sum(one.label == label for one in examples) for label in labels},
        "uncalibrated": judge(untuned, parts["test"]),
        "held_out": judge(tuned, parts["test"]),
    }
    return replace(tuned, report=report)


def judge(classifier: Classifier, examples: Sequence[Example]) -> dict[str, Any]:
    """What the classifier is worth on labelled documents; ``metrics`` says what each number is. The AUC is that of
    the score against being good. Raises UserError for a label that it does not know."""
    labels_N = numbers(classifier, examples)
    probabilities_NL = np.array(classifier.probabilities([one.text for one in examples]))
    scores_N = scores_of(classifier, probabilities_NL)
    good_N = np.array([classifier.is_good(one.label) for one in examples])
    found = {
        "accuracy": metrics.accuracy(probabilities_NL, labels_N),
        "auc": metrics.area_under_curve(scores_N, good_N),
        "log_loss": metrics.log_loss(probabilities_NL, labels_N),
        "ece": metrics.calibration_error(probabilities_NL, labels_N),
    }
    if classifier.numeric:
        truth_N = np.array([float(one.label) for one in examples])
        found["mean_absolute_error"] = float(np.abs(scores_N - truth_N).mean())
    return found


def scores_of(classifier: Classifier, probabilities_NL: NDArray[np.float64]) -> NDArray[np.float64]:
    """The classifier's own score of documents, of their probabilities."""
    return np.asarray(probabilities_NL @ np.array(classifier.values()))


def numbers(classifier: Classifier, examples: Sequence[Example]) -> NDArray[np.int64]:
    """The examples' labels by their place among the classifier's. Raises UserError for one that it does not know."""
    place = {label: number for number, label in enumerate(classifier.labels)}
    unknown = next((one.label for one in examples if one.label not in place), None)
    if unknown is not None:
        known = ", ".join(map(repr, classifier.labels))
        raise UserError(f"the label {unknown!r} is none of the classifier's ({known})")
    return np.array([place[one.label] for one in examples], np.int64)


def _good(labels: Sequence[Label], good: Label | None) -> Label:
    if good is None and isinstance(labels[0], str):
        if POSITIVE not in labels:
            raise UserError(f"which label do good documents have? Of {', '.join(map(str, labels))} name one as --good")
        return POSITIVE
    if good is None:
        return labels[-1]
    match = next((label for label in labels if str(label) == str(good)), None)
    if match is None:
        raise UserError(f"--good {good}: no document has this label{did_you_mean(str(good), map(str, labels))}")
    if match == labels[0] and not isinstance(match, str):
        raise UserError(f"--good {good}: is the least label, so that every document is good; name a greater one")
    return match


def _fit(
    examples: Sequence[Example], labels: Sequence[Label], settings: Settings, progress: Callable[[str], None]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    outputs = 1 if len(labels) == 2 else len(labels)
    weights_BO, squares_BO = (np.zeros((1 << settings.bits, outputs), np.float32) for _ in range(2))
    bias_O, bias_squares_O = np.zeros(outputs), np.zeros(outputs)
    place = {label: number for number, label in enumerate(labels)}
    random = np.random.default_rng(settings.seed)
    for epoch in range(settings.epochs):
        loss = 0.0
        order = random.permutation(len(examples)).tolist()
        for start in range(0, len(order), _BATCH):
            batch = [examples[number] for number in order[start : start + _BATCH]]
            loss += _text.linear_train(
                [one.text for one in batch],
                np.array([place[one.label] for one in batch], np.int32),
                weights_BO, squares_BO, bias_O, bias_squares_O,
                settings.longest,
                settings.rate,
            )  # fmt: skip
        progress(f"epoch {epoch + 1} of {settings.epochs}: loss {loss / len(order):.4f} nats a document")
    return weights_BO, bias_O
