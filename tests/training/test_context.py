"""A run that shares its sequences over ranks: the numbers of one process in FP64, its texts, its checkpoints."""

from __future__ import annotations

import pytest

from pyjpllm.training import latest
from pyjpllm.training.manifest import Manifest
from tests.training.runs import CONTEXTS, Runs
from tests.training.test_pipeline import assert_equals


@pytest.mark.parametrize("name", [name for layouts in CONTEXTS.values() for name in layouts])
def test_equals_one_process(name: str, runs: Runs) -> None:
    assert_equals(runs, name)
    newest = latest(runs.folder / name)
    assert newest is not None
    pieces = [tensor.pieces for tensor in Manifest.read(newest).tensors.values()]
    assert all(len({piece.slices for piece in held}) == len(held) for held in pieces)  # each written once
