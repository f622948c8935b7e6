"""Labelled documents: out of a field of the meta, or from two sets of files; and how they are split."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pyjpllm.corpus.inputs import expand_inputs
from pyjpllm.corpus.readers import read_file
from pyjpllm.errors import UserError, did_you_mean

Label: TypeAlias = int | float | str
Part = Literal["train", "calibrate", "test"]

MOST_LABELS = 20
POSITIVE, NEGATIVE = "positive", "negative"
_SHOWN = 10
_Path: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Example:
    """The beginning of a document, and its label."""

    text: str
    label: Label


def read_labelled(paths: Sequence[_Path], field: str, characters: int) -> list[Example]:
    """The documents of files whose meta have a label in ``field``, the first ``characters`` of each.

    Labels are numbers or names. Raises UserError for a document without one, and for labels of two kinds.
    """
    examples: list[Example] = []
    for where, text, meta in read_with_places(paths, characters):
        if field not in meta:
            raise UserError(f"{where}: no label {field!r} in its meta{did_you_mean(field, map(str, meta))}")
        label = checked_label(meta[field], field, where, examples[0].label if examples else None)
        examples.append(Example(text, label))
    return examples


def checked_label(label: object, field: str, where: str, first: Label | None) -> Label:
    """A label of the same kind as the ``first`` one. Raises UserError for what is none."""
    if isinstance(label, bool) or not isinstance(label, int | float | str) or label == "":
        shown = str(label)[:40] or "''"
        raise UserError(f"{where}: the label {field} = {shown}: must be a number or a name")
    if isinstance(label, float) and not math.isfinite(label):
        raise UserError(f"{where}: the label {field} = {label}: is no number")
    if first is not None and isinstance(label, str) != isinstance(first, str):
        raise UserError(
            f"{where}: the label {field} = {label!r}, where others have {first!r}: "
            "labels must be all numbers or all names"
        )
    return label


def read_two_sets(positive: Sequence[_Path], negative: Sequence[_Path], characters: int) -> list[Example]:
    """The documents of two sets of files, labelled ``positive`` and ``negative``."""
    return [
        Example(text, label)
        for label, paths in ((NEGATIVE, negative), (POSITIVE, positive))
        for _, text, _ in read_with_places(paths, characters)
    ]


def read_with_places(paths: Sequence[_Path], characters: int) -> Iterator[tuple[str, str, dict[str, object]]]:
    """(where, the beginning of the text, meta) of every document."""
    for path in expand_inputs(paths):
        for number, document in enumerate(read_file(path), 1):
            yield f"{path}, document {number}", document.text[:characters], dict(document.meta)


def labels_of(examples: Sequence[Example]) -> list[Label]:
    """The different labels, ascending. Raises UserError where there are too few or too many."""
    counts = Counter(example.label for example in examples)
    if not counts:
        raise UserError("no document to learn from")
    labels: list[Label] = sorted(counts)  # all numbers or all names: read_labelled sees to it
    if len(labels) == 1:
        raise UserError(f"all {len(examples)} documents have the label {labels[0]!r}: there is nothing to tell apart")
    if len(labels) > MOST_LABELS:
        shown = ", ".join(map(repr, labels[:_SHOWN]))
        raise UserError(f"{len(labels)} different labels ({shown}, ...): at most {MOST_LABELS}; round them")
    return labels


def part_of(text: str, seed: int, held_out: float) -> Part:
    """Which part a text belongs to, by its hash, so that equal texts lie in one part.

    Half of the share ``held_out`` is for calibration, half for the test.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    place = int.from_bytes(digest, "little") / 2.0**64
    return "calibrate" if place < held_out / 2 else "test" if place < held_out else "train"
