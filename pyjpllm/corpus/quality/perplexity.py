"""A language model over characters, for the perplexity of documents: training, use, and its file."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjpllm import _text
from pyjpllm.corpus.quality.labels import part_of
from pyjpllm.corpus.quality.modelfile import read_model, write_model
from pyjpllm.corpus.readers import read_documents
from pyjpllm.errors import UserError

KIND = "language model"
PERCENTILES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)
_MANY = 1024.0  # bits a character: more than any can take
_BATCH = 256
_EVERY = 10_000  # documents between two words about the progress


@dataclass(frozen=True)
class LanguageModel:
    """kernels/text/language_model.h has the formula."""

    slots: NDArray[np.uint64]
    """[slots, 2]: the table."""
    order: int
    """Characters of the longest n-grams: a character is predicted from ``order - 1`` before it."""
    backoff: float
    """What the empty context leaves to characters that were never seen."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained on, and the perplexity of documents that were held out."""

    def perplexities(self, texts: Sequence[str]) -> list[float]:
        """The perplexity per character of each text: 2 to the mean of -log2 p over its characters; 1 for no text."""
        bits = _text.log2_probabilities(list(texts), self.slots, self.order, self.backoff).tolist()
        return [2.0 ** min(_MANY - 1, -sum_ / max(1, len(text))) for sum_, text in zip(bits, texts, strict=True)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model's file, whole or not at all."""
        header = {"order": self.order, "backoff": self.backoff, "report": dict(self.report)}
        write_model(path, KIND, header, {"slots": self.slots})


def load_language_model(path: str | os.PathLike[str]) -> LanguageModel:
    """The model of a file. Raises UserError for one that is missing, damaged or something else."""
    header, arrays = read_model(path, KIND)
    return LanguageModel(arrays["slots"], header["order"], header["backoff"], header["report"])


def train_language_model(
    paths: Sequence[str | os.PathLike[str]],
    *,
    order: int = 5,
    min_count: int = 2,
    held_out: float = 0.05,
    max_gib: float = 4.0,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> LanguageModel:
    """A model of the documents of files.

    ``min_count``: n-grams of three characters and more that occur less are left out of the model. ``held_out``: share
    of documents that are only measured, by the hash of their text and ``seed``. ``max_gib``: of the counters, about 50
    bytes for each different n-gram. Raises UserError where they grow beyond it, and where there is no text.
    """
    counter = _text.NgramCounter(order)
    aside: list[str] = []
    documents = 0
    for document in read_documents(paths):
        if part_of(document.text, seed, held_out) != "train":
            aside.append(document.text)
            continue
        documents += 1
        try:
            counter.add(document.text)
        except OverflowError:
            raise UserError(f"more than 2^32 characters or n-grams after {documents} documents: give less") from None
        if counter.bytes > max_gib * 2**30:
            raise UserError(
                f"{counter.grams:,} n-grams of {documents:,} documents take more than {max_gib:g} GiB: give less text, "
                "a smaller --order, or more --max-gib"
            )
        if documents % _EVERY == 0:
            progress(f"{documents:,} documents, {counter.grams:,} n-grams, {counter.bytes / 2**20:,.0f} MiB")
    if counter.characters == 0:
        raise UserError("no text to learn from")
    slots, kept, backoff = counter.table(min_count)
    report = {
        "settings": {"order": order, "min_count": min_count, "held_out": held_out, "seed": seed},
        "documents": documents,
        "characters": counter.characters,
        "n_grams": {"counted": counter.grams, "kept": kept},
    }
    model = LanguageModel(slots, order, backoff)
    if any(aside):
        report["held_out"] = measure(model, aside)
    return LanguageModel(slots, order, backoff, report)


def measure(model: LanguageModel, texts: Iterable[str]) -> dict[str, Any]:
    """The perplexity of all texts together, and percentiles of that of each. Raises UserError where there is none."""
    values: list[float] = []
    lengths: list[int] = []
    left = iter(texts)
    while batch := list(itertools.islice(left, _BATCH)):
        values += model.perplexities(batch)
        lengths += map(len, batch)
    if not any(lengths):
        raise UserError("no text to measure")
    bits = math.fsum(math.log2(value) * length for value, length in zip(values, lengths, strict=True))
    found = np.percentile(np.array(values), PERCENTILES, method="lower").tolist()
    return {
        "documents": len(lengths),
        "characters": sum(lengths),
        "perplexity": 2.0 ** (bits / sum(lengths)),
        "percentiles": {str(percent): value for percent, value in zip(PERCENTILES, found, strict=True)},
    }
