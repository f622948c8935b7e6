"""Made-up documents of several kinds, told apart by how often they have which characters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyjpllm.corpus.quality.labels import Example, Label

_CHARACTERS = np.array([chr(code) for code in range(0x3041, 0x3071)])


def texts(kind: int, count: int, seed: int = 0, characters: int = 80) -> list[str]:
    """``count`` different texts of a kind, 0 or more: neighbouring kinds are alike."""
    random = np.random.default_rng([kind, seed])
    places = np.arange(len(_CHARACTERS))
    p = np.exp(-(((places - 10 - 6 * kind) / 9) ** 2))
    return ["".join(random.choice(_CHARACTERS, characters, p=p / p.sum())) for _ in range(count)]


def labelled(labels: Sequence[Label], count: int = 60, seed: int = 0, characters: int = 80) -> list[Example]:
    """``count`` examples of each label."""
    return [Example(text, label) for kind, label in enumerate(labels) for text in texts(kind, count, seed, characters)]


def write(path: Path, examples: Sequence[Example], field: str = "label") -> Path:
    """As JSON Lines."""
    lines = [json.dumps({"text": one.text, "meta": {field: one.label}}, ensure_ascii=False) for one in examples]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
