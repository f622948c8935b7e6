"""A run that shares its sequences over ranks: the numbers of one process in FP64, its texts, its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyjpllm.training import latest, train
from pyjpllm.training.manifest import Manifest
from tests.mpi import run_ranks
from tests.training.small import data_folder, small_config
from tests.training.test_pipeline import COMMON, TEXTS, assert_equals, runs

ULYSSES = "parallel.context_kind=ulysses"
LAYOUTS: dict[str, tuple[str, ...]] = {
    "ring": ("parallel.context=2",),
    "ulysses": ("parallel.context=2", ULYSSES),
    "ring, tensor 2": ("parallel.context=2", "parallel.tensor=2", "parallel.sequence=true"),
    "ulysses, pipeline 2": ("parallel.context=2", ULYSSES, "parallel.pipeline=2"),
    "ring, data 2": ("parallel.context=2", "train.activation_checkpointing=full"),
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("one")
    train(small_config(data_folder(), *COMMON, *TEXTS), run)
    return run


@pytest.mark.parametrize(("size", "layouts"), [(2, list(LAYOUTS)[:2]), (4, list(LAYOUTS)[2:])])
def test_equals_one_process(size: int, layouts: list[str], unbroken: Path, tmp_path: Path) -> None:
    results = run_ranks(runs, size, str(data_folder()), str(tmp_path), {name: LAYOUTS[name] for name in layouts})
    assert all(result == results[0] for result in results)
    for name in layouts:
        assert_equals(tmp_path / name, unbroken)
        newest = latest(tmp_path / name)
        assert newest is not None
        pieces = [tensor.pieces for tensor in Manifest.read(newest).tensors.values()]
        assert all(len({piece.slices for piece in held}) == len(held) for held in pieces)  # each written once
