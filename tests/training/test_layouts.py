"""A run goes on on any number of ranks: the numbers of one process in FP64, whatever layout wrote the checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pyjpllm.distributed import World, make_mesh
from pyjpllm.distributed.collectives import barrier
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
FP64 = ("precision.dtype=fp64", "checkpoint.keep_last=9", "train.steps=9")


def begun(world: World, data: str, folder: str) -> list[int]:
    """On four ranks: stopped after step 6 by a signal to the last rank, which all obey; put aside; and to the end."""
    from pyjpllm.training import trainer

    config, run = small_config(Path(data), *FP64, *LAYOUTS[4]), Path(folder) / "on 4"
    one_step = trainer.Trainer._one_step
    if world.rank == world.size - 1:
        trainer.Trainer._one_step = stop_after(6)  # type: ignore[method-assign]
    steps = [train(config, run, world=world).step]
    trainer.Trainer._one_step = one_step  # type: ignore[method-assign]
    if world.rank == 0:
        shutil.copytree(run, Path(folder) / "begun")
    barrier(make_mesh(world).world_group)
    return [*steps, train(config, run, world=world).step]


def gone_on(world: World, data: str, folder: str) -> tuple[int, str]:
    """On two ranks: to the end, and the error that each rank gets for a damaged checkpoint."""
    config = small_config(Path(data), *FP64, *LAYOUTS[2])
    step = train(config, Path(folder) / "on 2", world=world).step
    try:
        train(config, Path(folder) / "damaged", world=world)
    except UserError as error:
        return step, str(error)
    return step, "no error"


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with "begun", a run on four ranks (data 2 x tensor 2) after step 6, and "on 4", the same at its end."""
    folder = tmp_path_factory.mktemp("layouts")
    assert run_ranks(begun, 4, str(data_folder()), str(folder)) == [[6, 9]] * 4
    assert complete_steps(folder / "begun") == [4, 6]
    return folder


@pytest.fixture(scope="module")
def ends(begin: Path) -> tuple[Path, list[str]]:
    """The same folder with "on 2", "on 1" and "one", all from the beginning on one process; errors about "damaged"."""
    for name in ("on 2", "on 1", "damaged"):
        shutil.copytree(begin / "begun", begin / name)
    newest = latest(begin / "damaged")
    assert newest is not None
    files = sorted(newest.glob("*.safetensors"))
    assert len(files) == 4  # every rank wrote a share
    content = bytearray(files[2].read_bytes())
    content[-1] ^= 0x10
    files[2].write_bytes(content)
    results = run_ranks(gone_on, 2, str(data_folder()), str(begin))
    assert [step for step, _ in results] == [9, 9]
    for name in ("on 1", "one"):
        train(small_config(data_folder(), *FP64), begin / name)
    return begin, [f"{files[2].name}: {error}" for _, error in results]


def difference(a: Path, b: Path) -> float:
    """The largest between weights of the newest checkpoints of two runs."""
    first, second = latest(a), latest(b)
    assert first is not None
    assert second is not None
    expected = dict(read_model_state(second))
    return max(float((value - expected[name]).abs().max()) for name, value in read_model_state(first))


def same_weights(a: Path, b: Path) -> None:
    assert difference(a, b) <= 1e-10


@pytest.mark.parametrize("ranks", [4, 2, 1])
def test_a_checkpoint_of_four_ranks_goes_on_on_four_two_and_one(ends: tuple[Path, list[str]], ranks: int) -> None:
    """`pytest -s` prints the error of another order of sums, which docs/training.md states."""
    run, one = ends[0] / f"on {ranks}", ends[0] / "one"
    same_weights(run, one)
    losses, expected = ([record["loss"] for record in records(name)] for name in (run, one))
    assert losses == pytest.approx(expected, abs=1e-10)
    apart = max(abs(ours - theirs) for ours, theirs in zip(losses, expected, strict=True))
    print(f"4 -> {ranks} ranks: weights differ by {difference(run, one):.1e}, losses by {apart:.1e}")


def test_a_damaged_file_is_refused_on_every_rank_by_name(ends: tuple[Path, list[str]]) -> None:
    assert len(set(ends[1])) == 1
    name, said = ends[1][0].split(": ", 1)
    assert f"{name} is damaged" in said
