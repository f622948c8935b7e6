"""A run through a pipeline: the numbers of one process in FP64, its texts, its checkpoints, what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyjpllm.distributed import World
from pyjpllm.errors import UserError
from pyjpllm.model.huggingface import export
from pyjpllm.parallel.pipeline import Kind, named
from pyjpllm.training import latest, load_model, read_model_state, train
from pyjpllm.training.manifest import Manifest
from tests.mpi import run_ranks
from tests.training.small import data_folder, small_config
from tests.training.test_layouts import same_weights
from tests.training.test_trainer import records

DEEP = ("precision.dtype=fp64", "train.micro_batch=1", "model.num_layers=4")
COMMON = (*DEEP, "train.steps=6")
TEXTS = ('log.sample_prompts=["計算機の"]', "log.sample_tokens=6", "train.eval_interval=3")
LAYOUTS = {
    "zb-v": ("parallel.pipeline=2",),
    "1f1b, tensor 2": ("parallel.pipeline=2", "parallel.pipeline_schedule=1f1b", "parallel.tensor=2"),
    "searched, data 2": ("parallel.pipeline=2", "parallel.pipeline_schedule=searched"),
    "4 ranks, by list": ("parallel.pipeline=4", "parallel.pipeline_layers=[0,1,1,1,0,0,1,0]"),
}


def runs(world: World, data: str, folder: str, layouts: dict[str, tuple[str, ...]]) -> Any:
    """One rank of a run on each layout."""
    found = []
    for name, overrides in layouts.items():
        config = small_config(Path(data), *COMMON, *TEXTS, *overrides)
        found.append(train(config, Path(folder) / name, world=world).loss)
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("one")
    train(small_config(data_folder(), *COMMON, *TEXTS), run)
    return run


def samples(run: Path) -> list[Any]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


def assert_equals(run: Path, unbroken: Path) -> None:
    ours, theirs = records(run), records(unbroken)
    for key in ("loss", "grad_norm", "valid_loss", "valid_bits_per_byte"):
        expected = [record[key] for record in theirs if key in record]
        assert [record[key] for record in ours if key in record] == pytest.approx(expected, abs=1e-10)
    assert samples(run) == samples(unbroken)
    same_weights(run, unbroken)


@pytest.mark.parametrize(("size", "layouts"), [(2, list(LAYOUTS)[:1]), (4, list(LAYOUTS)[1:])])
def test_equals_one_process(size: int, layouts: list[str], unbroken: Path, tmp_path: Path) -> None:
    results = run_ranks(runs, size, str(data_folder()), str(tmp_path), {name: LAYOUTS[name] for name in layouts})
    assert all(result == results[0] for result in results)
    for name in layouts:
        assert_equals(tmp_path / name, unbroken)
        assert all(0 <= record["bubble"] < 1 for record in records(tmp_path / name))


def resumed(world: World, data: str, run: str, overrides: tuple[str, ...]) -> int:
    return train(small_config(Path(data), *DEEP, "schedule.kind=constant", *overrides), Path(run), world=world).step


def test_another_layout_goes_on(unbroken: Path, tmp_path: Path) -> None:
    """Three steps on 2 pipeline ranks x 2 replicas, the fourth on 2 ranks, the rest on one."""
    run, data = tmp_path / "run", str(data_folder())
    half = ("parallel.pipeline=2",)
    assert run_ranks(resumed, 4, data, str(run), (*half, "train.steps=3")) == [3] * 4
    newest = latest(run)
    assert newest is not None
    pieces = {name: len(tensor.pieces) for name, tensor in Manifest.read(newest).tensors.items()}
    assert set(pieces.values()) == {1}  # each written once, the tied embedding too
    other = (*half, "train.steps=4", "parallel.pipeline_schedule=zb-h1")
    assert run_ranks(resumed, 2, data, str(run), other) == [4] * 2
    whole = tmp_path / "whole"
    for folder in (run, whole):
        train(small_config(data_folder(), *COMMON, "schedule.kind=constant"), folder)
    same_weights(run, whole)
    assert [r["loss"] for r in records(run)] == pytest.approx([r["loss"] for r in records(whole)], abs=1e-10)


def test_it_starts_from_a_hugging_face_folder(unbroken: Path, tmp_path: Path) -> None:
    """Each rank of a pipeline reads its layers, and no other's."""
    newest = latest(unbroken)
    assert newest is not None
    export(dict(read_model_state(newest)), load_model(newest).config, tmp_path / "hf")
    start, data = ("train.steps=1", f"model.init_from={tmp_path / 'hf'}"), data_folder()
    assert run_ranks(resumed, 2, str(data), str(tmp_path / "two"), (*start, "parallel.pipeline=2")) == [1, 1]
    train(small_config(data, *DEEP, "schedule.kind=constant", *start), tmp_path / "one")
    (ours,), (theirs,) = records(tmp_path / "two"), records(tmp_path / "one")
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-10)
    assert ours["loss"] < 0.95 * records(unbroken)[0]["loss"]


def measured_and_refused(world: World, data: str, run: str) -> list[str]:
    config = small_config(Path(data), *COMMON, "parallel.pipeline=2")
    train(config, Path(run), world=world)
    said = []
    for overrides in (("parallel.pipeline_layers=[4,0,0,0]",), ("model.num_layers=1",)):
        try:
            train(small_config(Path(data), *COMMON, "parallel.pipeline=2", *overrides), Path(run + "x"), world=world)
        except UserError as error:
            said.append(str(error))
    return said


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    said, others = run_ranks(measured_and_refused, 2, str(data_folder()), str(tmp_path / "run"))
    assert said == others
    assert len(said) == 2
    assert "rank 1 of the pipeline would have nothing to do" in said[0]
    found = json.loads((tmp_path / "run" / "pipeline.json").read_text())
    table = named("zb-v", 2, 8)
    assert found["step"] == 6
    assert (tuple(found["rank_of"]), found["micro_batches"]) == (table.rank_of, 8)
    assert sum(found["layers"]) == 4
    for row, expected in zip(found["rows"], table.rows, strict=True):
        assert [(Kind(kind), *rest) for kind, *rest, _, _ in row] == [tuple(action) for action in expected]
        assert all(start <= end for *_, start, end in row)
