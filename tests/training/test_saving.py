"""Checkpoints that are written while training goes on: the same files, whole or absent, whoever is slow or fails."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pyjpllm.distributed import World
from pyjpllm.training import checkpoint, complete_steps, train
from pyjpllm.training.folders import step_folder
from tests.mpi import run_ranks
from tests.training.small import data_folder, small_config
from tests.training.test_trainer import digest, records

SHORT = ("train.steps=8", "checkpoint.interval=2", "checkpoint.keep_last=9", "data.valid=[]")


def after(run: Path, step: int, action: Any) -> Any:
    """``action``, but first wait until the run has made ``step``, which it never does if it waits for the action."""

    def waiting(*args: Any) -> Any:
        deadline = time.monotonic() + 60
        while len(records(run)) < step:
            assert time.monotonic() < deadline, "training waits for the checkpoint"
            time.sleep(0.01)
        return action(*args)

    return waiting


def test_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of step 2 is written when step 3 is done, and has step 2's state nevertheless."""
    original = checkpoint._write_share
    calls = [0]

    def late(folder: Path, *args: Any) -> Any:
        calls[0] += 1
        write = after(tmp_path / "run", 3, original) if calls[0] == 1 else original
        return write(folder, *args)

    train(small_config(data_folder(), *SHORT, "checkpoint.asynchronous=false"), tmp_path / "waits")
    monkeypatch.setattr(checkpoint, "_write_share", late)
    train(small_config(data_folder(), *SHORT), tmp_path / "run")
    assert complete_steps(tmp_path / "run") == complete_steps(tmp_path / "waits") == [2, 4, 6, 8]
    for step in (2, 4, 6, 8):
        ours, theirs = (
            {path.name: path.read_bytes() for path in step_folder(tmp_path / name, step).glob("*.safetensors")}
            for name in ("run", "waits")
        )
        assert ours == theirs
    assert digest(tmp_path / "run") == digest(tmp_path / "waits")


def test_one_that_fails_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = checkpoint._write_share

    def failing(folder: Path, *args: Any) -> Any:
        if "00000004" in folder.name:
            raise OSError(28, "No space left on device")
        return original(folder, *args)

    monkeypatch.setattr(checkpoint, "_write_share", failing)
    train(small_config(data_folder(), *SHORT), tmp_path)
    assert complete_steps(tmp_path) == [2, 6, 8]
    said = capsys.readouterr().err
    assert "WARNING: checkpoint of step 4 was not written (rank 0: OSError: [Errno 28] No space left" in said
    assert "the newest checkpoint is that of step 2" in said
    assert not list((tmp_path / "checkpoints").glob(".*"))


def one_is_slow(world: World, data: str, run: str) -> tuple[int, list[list[int]]]:
    """Rank 1 writes that of step 2 when step 3 is done; what is complete after each step of the run, by rank 0."""
    from pyjpllm.training import trainer

    original, complete = checkpoint._write_share, []
    if world.rank == 1:

        def late(folder: Path, *args: Any) -> Any:
            return (after(Path(run), 3, original) if "00000002" in folder.name else original)(folder, *args)

        checkpoint._write_share = late
    step = trainer.Trainer._one_step

    def watched(self: trainer.Trainer) -> Any:
        complete.append(complete_steps(Path(run)))
        return step(self)

    trainer.Trainer._one_step = watched  # type: ignore[method-assign]
    made = train(small_config(Path(data), *SHORT, "parallel.zero=1"), Path(run), world=world).step
    return made, complete


def test_it_is_there_when_all_ranks_have_written(tmp_path: Path) -> None:
    (made, complete), _ = run_ranks(one_is_slow, 2, str(data_folder()), str(tmp_path / "run"), fresh=True)
    assert made == 8
    assert complete[2] == complete[3] == []  # before steps 3 and 4: rank 1 has not written yet
    assert complete_steps(tmp_path / "run") == [2, 4, 6, 8]
