"""A run goes on on any number of ranks: the numbers of one process in FP64, whatever layout wrote the checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pyjpllm.distributed import World
from pyjpllm.errors import UserError
from pyjpllm.training import complete_steps, latest, read_model_state, train
from tests.mpi import run_ranks
from tests.training.small import data_folder, small_config
from tests.training.test_trainer import records, stop_after

LAYOUTS = {
    4: ("parallel.tensor=2", "parallel.sequence=true", "parallel.zero=1"),
    2: ("parallel.zero=3", "train.eval_interval=2"),
    1: (),
}


def body(world: World, data: str, run: str, overrides: tuple[str, ...], stop_at: int | None = None) -> Any:
    """One rank of a run; a signal reaches only the last rank, and all stop at the same step."""
    from pyjpllm.training import trainer

    if stop_at is not None and world.rank == world.size - 1:
        trainer.Trainer._one_step = stop_after(stop_at)  # type: ignore[method-assign]
    config = small_config(Path(data), "precision.dtype=fp64", "checkpoint.keep_last=9", *overrides)
    return train(config, Path(run), world=world).step


def damaged(world: World, data: str, run: str) -> str:
    """The error that each rank gets for a damaged checkpoint."""
    try:
        train(small_config(Path(data), "precision.dtype=fp64", *LAYOUTS[world.size]), Path(run), world=world)
    except UserError as error:
        return str(error)
    return "no error"


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on four ranks (data 2 x tensor 2, sequence parallel), stopped after step 6 by a signal to one rank."""
    run = tmp_path_factory.mktemp("four") / "run"
    assert run_ranks(body, 4, str(data_folder()), str(run), LAYOUTS[4], 6) == [6, 6, 6, 6]
    return run


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on one process, to the end."""
    run = tmp_path_factory.mktemp("one")
    train(small_config(data_folder(), "precision.dtype=fp64", "checkpoint.keep_last=9"), run)
    return run


def same_weights(a: Path, b: Path) -> None:
    first, second = latest(a), latest(b)
    assert first is not None
    assert second is not None
    expected = dict(read_model_state(second))
    for name, value in read_model_state(first):
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("ranks", [4, 2, 1])
def test_a_checkpoint_of_four_ranks_goes_on_on_four_two_and_one(
    four: Path, unbroken: Path, tmp_path: Path, ranks: int
) -> None:
    shutil.copytree(four, tmp_path / "run")
    assert complete_steps(tmp_path / "run") == [4, 6]
    if ranks == 1:
        train(small_config(data_folder(), "precision.dtype=fp64", "checkpoint.keep_last=9"), tmp_path / "run")
    else:
        run_ranks(body, ranks, str(data_folder()), str(tmp_path / "run"), LAYOUTS[ranks])
    same_weights(tmp_path / "run", unbroken)
    losses = [r["loss"] for r in records(tmp_path / "run")]
    assert losses == pytest.approx([r["loss"] for r in records(unbroken)], abs=1e-10)


def test_a_damaged_file_is_refused_on_every_rank_by_name(four: Path, tmp_path: Path) -> None:
    shutil.copytree(four, tmp_path / "run")
    newest = latest(tmp_path / "run")
    assert newest is not None
    files = sorted(newest.glob("*.safetensors"))
    assert len(files) == 4  # every rank wrote a share
    content = bytearray(files[2].read_bytes())
    content[-1] ^= 0x10
    files[2].write_bytes(content)
    errors = run_ranks(damaged, 2, str(data_folder()), str(tmp_path / "run"))
    assert len(set(errors)) == 1
    assert f"{files[2].name} is damaged" in errors[0]
