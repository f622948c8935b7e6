"""Second copies of checkpoints: the same bits, enough to go on from, never at the cost of the first or of the run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyjpllm.distributed import World
from pyjpllm.errors import UserError
from pyjpllm.training import checkpoint, complete_steps, copying, find_model, load_model, read_model_state, train
from pyjpllm.training.folders import latest, publish, recover, step_folder, steps_in
from tests.mpi import run_ranks
from tests.training.small import data_folder, small_config
from tests.training.test_trainer import digest, records

SHORT = {"train.steps": "8", "checkpoint.interval": "2", "checkpoint.keep_last": "9", "data.valid": "[]"}


def short(copies: Path, *overrides: str, data: Path | None = None) -> Any:
    fields = {**SHORT, "checkpoint.copy_to": copies, **dict(text.split("=", 1) for text in overrides)}
    return small_config(data or data_folder(), *(f"{field}={value}" for field, value in fields.items()))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and its copies, to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("finished")
    train(short(folder / "copies"), folder / "run")
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """Four steps of it, in two checkpoints, as if it had been killed there and then moved here."""
    for name in ("run", "copies"):
        shutil.copytree(finished / name, tmp_path / name)
    for step in (6, 8):
        shutil.rmtree(tmp_path / "copies" / f"step-{step:08d}")
        shutil.rmtree(step_folder(tmp_path / "run", step))
    for path in ("run/run.json", "copies/run.json", "run/config.toml"):
        text = (tmp_path / path).read_text()
        (tmp_path / path).write_text(text.replace(str(finished), str(tmp_path)))
    return tmp_path


def go_on(place: Path, finished: Path) -> None:
    """To the end: with the bits of the run that was not interrupted, in both places."""
    assert train(short(place / "copies"), place / "run").finished
    assert digest(place / "run") == digest(finished / "run")
    for step in steps_in(place / "copies"):
        assert files(place / "copies" / f"step-{step:08d}").keys() == files(step_folder(finished / "run", step)).keys()
    assert steps_in(place / "copies")[-1] == 8
    assert [record["step"] for record in records(place / "run")] == list(range(1, 9))


def test_each_checkpoint_is_there_twice_bit_for_bit(finished: Path) -> None:
    assert complete_steps(finished / "run") == steps_in(finished / "copies") == [2, 4, 6, 8]
    for step in (2, 4, 6, 8):
        assert files(step_folder(finished / "run", step)) == files(finished / "copies" / f"step-{step:08d}")
    assert not list((finished / "copies").glob(".step*"))
    alone = load_model(finished / "copies" / "step-00000008")
    assert alone.tokenizer == finished / "copies" / "tokenizer"


def test_as_many_are_kept_in_both_places(tmp_path: Path) -> None:
    kept = ("checkpoint.interval=1", "checkpoint.keep_last=2", "checkpoint.keep_every=3", "train.steps=7")
    for mode in ("true", "false"):
        train(short(tmp_path / f"copies-{mode}", *kept, f"checkpoint.asynchronous={mode}"), tmp_path / mode)
        assert complete_steps(tmp_path / mode) == steps_in(tmp_path / f"copies-{mode}") == [3, 6, 7]


def test_the_copies_alone_are_enough(place: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place / "run" / "checkpoints")
    go_on(place, finished)
    assert f"resuming {place / 'copies' / 'step-00000004'}" in capsys.readouterr().err
    assert complete_steps(place / "run") == [6, 8]


def test_a_run_whose_folder_is_lost_goes_on_from_its_copies(place: Path, finished: Path) -> None:
    shutil.rmtree(place / "run")
    assert train(short(place / "copies"), place / "run").finished
    assert digest(place / "run") == digest(finished / "run")
    assert [record["step"] for record in records(place / "run")] == [5, 6, 7, 8]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "flipped byte": ("rank-00000-000.safetensors", flip, "is damaged: its SHA-256"),
    "truncated": ("rank-00000-000.safetensors", cut, "bytes where"),
    "removed": ("rank-00000-000.safetensors", Path.unlink, "is missing"),
    "manifest cut": ("manifest.json", cut, "is damaged (JSONDecodeError"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_damaged_is_taken_from_the_copy(
    place: Path, finished: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    name, damage, said = DAMAGES[kind]
    damage(step_folder(place / "run", 4) / name)
    found = load_model(place / "run")
    assert found.note is not None
    assert said in found.note
    assert found.note.endswith(f"taken from its copy in {place / 'copies' / 'step-00000004'}")
    go_on(place, finished)
    assert found.note in capsys.readouterr().err.splitlines()


def test_without_a_manifest_it_is_the_copy_that_is_read(place: Path, finished: Path) -> None:
    (step_folder(place / "run", 4) / "manifest.json").unlink()
    assert find_model(place / "run") == place / "copies" / "step-00000004"
    go_on(place, finished)


def test_files_damaged_in_each_place_are_taken_from_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 20_000)
    config = short(tmp_path / "copies", "train.steps=2")
    train(config, tmp_path / "run")
    before = dict(read_model_state(step_folder(tmp_path / "run", 2)))
    names = sorted(path.name for path in step_folder(tmp_path / "run", 2).glob("*.safetensors"))
    assert len(names) > 3
    flip(step_folder(tmp_path / "run", 2) / names[0])
    cut(step_folder(tmp_path / "run", 2) / names[1])
    flip(tmp_path / "copies" / "step-00000002" / names[2])
    after = dict(read_model_state(step_folder(tmp_path / "run", 2)))
    assert all(value.equal(before[name]) for name, value in after.items())
    train(config, tmp_path / "run")
    assert f"{names[0]} is damaged: its SHA-256 is not the one in manifest.json (the first of 2 such files); taken" in (
        capsys.readouterr().err
    )


def test_what_is_whole_nowhere_is_refused_by_both_names(place: Path) -> None:
    name = "rank-00000-000.safetensors"
    ours, theirs = step_folder(place / "run", 4), place / "copies" / "step-00000004"
    flip(ours / name)
    (theirs / name).unlink()
    said = rf"{ours / name} is damaged.*, and {theirs / name} is missing; remove {ours} and {theirs} to go on from"
    with pytest.raises(UserError, match=said):
        train(short(place / "copies"), place / "run")


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a disk with room for one and a half checkpoints: a tmpfs, or what stands for one without root."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        original = copying.copy_file

        def refused(source: Path, target: Path) -> None:
            used = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
            if used + source.stat().st_size > 768 << 10:
                raise OSError(28, "No space left on device")
            original(source, target)

        monkeypatch.setattr(copying, "copy_file", refused)
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_the_copy_alone(full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(short(full / "copies"), tmp_path / "run")
    assert result.finished
    assert complete_steps(tmp_path / "run") == [2, 4, 6, 8]
    assert steps_in(full / "copies") == [2]
    said = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert len(said) == 3
    for step, line in zip((4, 6, 8), said, strict=True):
        assert line.startswith(f"WARNING: {full / 'copies'}: the checkpoint of step {step} was not copied (rank 0: OSE")
        assert "No space left on device" in line
        assert line.endswith("; the newest copy there is that of step 2; the next checkpoint tries again")
    shutil.rmtree(full / "copies" / "step-00000002")
    assert train(short(full / "copies"), tmp_path / "run").exit_reason.startswith("nothing to do")
    assert files(full / "copies" / "step-00000008") == files(step_folder(tmp_path / "run", 8))  # made up for


def test_a_file_system_that_goes_and_comes_costs_the_copies_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copies, elsewhere = tmp_path / "copies", tmp_path / "unmounted"
    original = checkpoint._write_share

    def writing(folder: Path, *args: Any) -> Any:
        if "00000004" in folder.name:
            copies.rename(elsewhere)
            copies.mkdir()
        if "00000006" in folder.name:
            copies.rmdir()
            elsewhere.rename(copies)
        return original(folder, *args)

    monkeypatch.setattr(checkpoint, "_write_share", writing)
    assert train(short(copies, "checkpoint.asynchronous=false"), tmp_path / "run").finished
    assert complete_steps(tmp_path / "run") == [2, 4, 6, 8]
    assert steps_in(copies) == [2, 6, 8]
    said = capsys.readouterr().err
    assert f"WARNING: {copies}: the checkpoint of step 4 was not copied (FileNotFoundError" in said
    assert "has no run.json any more; is its file system mounted?" in said


def test_a_folder_that_cannot_be_made_stops_a_run_only_where_it_may_hold_the_newest(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "file").write_text("")
    shutil.copytree(place / "run", place / "started")
    assert train(short(place / "file" / "copies"), place / "started").finished
    said = capsys.readouterr().err
    assert f"WARNING: checkpoint.copy_to = {place / 'file' / 'copies'}: " in said
    assert f"WARNING: {place / 'file' / 'copies'}: the checkpoint of step 6 was not copied (NotADirectoryError" in said
    with pytest.raises(UserError, match=r"^checkpoint.copy_to = .*file/copies: .*Not a directory$"):
        train(short(place / "file" / "copies"), place / "new")


def test_two_runs_never_share_a_folder(place: Path) -> None:
    with pytest.raises(UserError, match=rf"copy_to = {place}/copies: holds the copies of the run {place}/run; name an"):
        train(short(place / "copies"), place / "another")
    shutil.copytree(place / "run", place / "duplicate")
    with pytest.raises(UserError, match=rf"belongs to {place}/run, of which {place}/duplicate is a duplicate"):
        train(short(place / "copies"), place / "duplicate")
    train(short(place / "others", "train.steps=2"), place / "another")
    with pytest.raises(UserError, match=rf"holds the copies of another run, {place}/run; name another folder"):
        train(short(place / "copies"), place / "another")
    with pytest.raises(UserError, match=rf"holds the copies of another run, {place}/another; name another folder"):
        train(short(place / "others"), place / "run")
    with pytest.raises(UserError, match=r"holds checkpoints, but no run.json that says of which run"):
        train(short(place / "another" / "checkpoints"), place / "run")
    with pytest.raises(UserError, match=r"is in the run's own folder .*; name one on another disk"):
        train(short(place / "run" / "checkpoints"), place / "run")
    (place / "copies" / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"copies/run.json does not say whose copies these are; remove it if"):
        train(short(place / "copies"), place / "run")


def test_a_run_may_be_moved_and_its_copies_handed_on(place: Path, finished: Path) -> None:
    (place / "run").rename(place / "moved")
    assert train(short(place / "copies", "train.steps=6", "schedule.kind=constant"), place / "moved").step == 6
    assert json.loads((place / "copies" / "run.json").read_text())["run"] == str(place / "moved")
    shutil.rmtree(place / "moved")
    with pytest.raises(UserError, match=rf"or copy {place}/copies/run.json into {place}/next if that run is to go on"):
        train(short(place / "copies"), place / "next")
    shutil.copy(place / "copies" / "run.json", place / "next")
    assert train(short(place / "copies", "schedule.kind=constant"), place / "next").step == 8


def test_a_checkpoint_caught_between_two_names_comes_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill comes when the old one has gone and the new one has not come."""
    home = step_folder(place / "run", 4)
    before, temporary = files(home), home.with_name(f".{home.name}.tmp")
    shutil.copytree(home, temporary)

    def killed(source: Path, target: Path, rename: Any = os.rename) -> None:
        if source == temporary:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(os, "rename", killed)
        publish(temporary, home)
    assert complete_steps(place / "run") == [2]
    recover(home.parent)
    assert files(home) == before
    assert latest(place / "run") == home


def test_a_file_for_a_folder_is_said_when_the_config_is_checked(place: Path) -> None:
    from pyjpllm.config import ConfigError, check_config

    (place / "file").write_text("")
    with pytest.raises(ConfigError, match=r"checkpoint.copy_to = .*: is a file; name a folder"):
        check_config(short(place / "file"), 1)


def ranks(world: World, data: str, folder: str) -> tuple[Any, ...]:
    """A run in which rank 1 can't copy the checkpoint of step 4: the last step, the copies there, and an error.

    Copies after the run, and after a start that finds one missing; the error that a damaged file without a copy gives.
    """
    original = copying.copy_file

    def failing(source: Path, target: Path) -> None:
        if world.rank == 1 and "step-00000004" in str(target):
            raise OSError(28, "No space left on device")
        original(source, target)

    copying.copy_file = failing  # type: ignore[assignment]
    place = Path(folder)
    config = short(place / "copies", "parallel.zero=1", data=Path(data))
    made = train(config, place / "run", world=world).step
    there = [steps_in(place / "copies")]
    if world.rank == 0:
        shutil.rmtree(place / "copies" / "step-00000008")
    train(config, place / "run", world=world)
    there.append(steps_in(place / "copies"))
    if world.rank == 0:
        shutil.rmtree(place / "copies" / "step-00000008")
        flip(step_folder(place / "run", 8) / "rank-00001-000.safetensors")
    again = "no error"
    try:
        train(config, place / "run", world=world)
    except UserError as error:
        again = str(error)
    return made, there, again


def test_every_rank_copies_its_own_and_one_that_fails_costs_one_copy(tmp_path: Path) -> None:
    results = run_ranks(ranks, 2, str(data_folder()), str(tmp_path), fresh=True)
    for made, there, again in results:
        assert made == 8
        assert there == [[2, 6, 8], [2, 6, 8]]  # the second time that of step 8 was made up for
        assert "rank-00001-000.safetensors is damaged" in again
    for step in (2, 6):
        copied = files(tmp_path / "copies" / f"step-{step:08d}")
        assert copied == files(step_folder(tmp_path / "run", step))
        assert {"rank-00000-000.safetensors", "rank-00001-000.safetensors"} <= copied.keys()
