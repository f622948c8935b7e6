"""A run through a pipeline: the numbers of one process in FP64, its texts, its checkpoints, what it says of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pyjpllm.parallel.pipeline import Kind, named
from pyjpllm.training import train
from pyjpllm.training.folders import step_folder
from pyjpllm.training.manifest import Manifest
from tests.training.runs import CONSTANT, PIPELINES, REFUSED, Runs
from tests.training.small import data_folder, small_config
from tests.training.test_layouts import same_weights
from tests.training.test_trainer import records


def samples(run: Path) -> list[Any]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


def assert_equals(runs: Runs, name: str) -> None:
    """Every number of a run, its texts and its weights are those of one process."""
    run = runs.folder / name
    assert len(set(runs.said[name])) == 1
    ours, theirs = records(run), records(runs.one)
    for key in ("loss", "grad_norm", "valid_loss", "valid_bits_per_byte"):
        expected = [record[key] for record in theirs if key in record]
        assert [record[key] for record in ours if key in record] == pytest.approx(expected, abs=1e-10)
    assert samples(run) == samples(runs.one)
    same_weights(run, runs.one)


@pytest.mark.parametrize("name", [name for layouts in PIPELINES.values() for name in layouts])
def test_equals_one_process(name: str, runs: Runs) -> None:
    assert_equals(runs, name)
    assert all(0 <= record["bubble"] < 1 for record in records(runs.folder / name))


def test_another_layout_goes_on(runs: Runs, tmp_path: Path) -> None:
    """Two steps on 2 pipeline ranks x 2 replicas, the third on 2 ranks, the last on one."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(runs.folder / "changed", run)
    pieces = {name: len(tensor.pieces) for name, tensor in Manifest.read(step_folder(run, 2)).tensors.items()}
    assert set(pieces.values()) == {1}  # each written once, the tied embedding too
    assert [record["step"] for record in records(run)] == [1, 2, 3]
    for folder in (run, whole):
        train(small_config(data_folder(), *CONSTANT, "train.steps=4"), folder)
    same_weights(run, whole)
    assert [r["loss"] for r in records(run)] == pytest.approx([r["loss"] for r in records(whole)], abs=1e-10)


def test_it_starts_from_a_hugging_face_folder(runs: Runs, tmp_path: Path) -> None:
    """Each rank of a pipeline reads its layers, and no other's."""
    start = ("train.steps=1", f"model.init_from={runs.folder / 'hf'}")
    train(small_config(data_folder(), *CONSTANT, *start), tmp_path)
    (ours,), (theirs,) = records(runs.folder / "from Hugging Face"), records(tmp_path)
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-10)
    assert ours["loss"] < 0.95 * records(runs.one)[0]["loss"]


def test_it_refuses_a_rank_without_work(runs: Runs) -> None:
    for name in REFUSED:
        first, second = runs.said[name]
        assert isinstance(first, str)
        assert first == second
    assert "rank 1 of the pipeline would have nothing to do" in runs.said["no layers"][0]


def test_what_it_says_of_itself(runs: Runs) -> None:
    found = json.loads((runs.folder / "zb-v" / "pipeline.json").read_text())
    table = named("zb-v", 2, 4)
    assert found["step"] == 4
    assert (tuple(found["rank_of"]), found["micro_batches"]) == (table.rank_of, 4)
    assert sum(found["layers"]) == 4
    for row, expected in zip(found["rows"], table.rows, strict=True):
        assert [(Kind(kind), *rest) for kind, *rest, _, _ in row] == [tuple(action) for action in expected]
        assert all(start <= end for *_, start, end in row)
