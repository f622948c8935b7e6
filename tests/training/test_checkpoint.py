"""Checkpoints are whole or absent, verified, and readable on any layout."""

from __future__ import annotations

import itertools
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pyjpllm.errors import UserError
from pyjpllm.files import sha256_of
from pyjpllm.training import checkpoint, complete_steps, latest, load_model, read_model_state, train
from pyjpllm.training.folders import step_folder, sweep
from pyjpllm.training.manifest import Manifest, PieceReader, StoredPiece, StoredTensor
from tests.training.small import data_folder, small_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, with one checkpoint."""
    run = tmp_path_factory.mktemp("finished")
    train(small_config(data_folder(), "train.steps=2"), run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def one_file(run: Path) -> Path:
    newest = latest(run)
    assert newest is not None
    return next(newest.glob("*.safetensors"))


def go_on(run: Path) -> None:
    train(small_config(data_folder(), "train.steps=4"), run)


def test_others_may_read_what_new_files_let_them(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    assert {path.stat().st_mode for path in files} == {(tmp_path / "file").stat().st_mode}


def test_a_flipped_byte_is_refused_by_the_files_name(run: Path) -> None:
    path = one_file(run)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for reader in (go_on, lambda r: load_model(r), lambda r: list(read_model_state(step_folder(r, 2)))):
        with pytest.raises(UserError, match=r"rank-00000-000.safetensors is damaged"):
            reader(run)


def test_a_truncated_file_is_refused(run: Path) -> None:
    path = one_file(run)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"rank-00000-000.safetensors has [\d,]+ bytes where .*; remove .*step-00000002"
    ):
        go_on(run)


def test_a_missing_file_is_refused(run: Path) -> None:
    one_file(run).unlink()
    with pytest.raises(UserError, match=r"rank-00000-000.safetensors is missing"):
        go_on(run)


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', '{"format": 1, "tensors": []}', "[]", "\x00\x01"])
def test_a_damaged_manifest_is_refused(run: Path, text: str) -> None:
    (step_folder(run, 2) / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        go_on(run)


def test_a_manifest_of_another_format_is_refused(run: Path) -> None:
    path = step_folder(run, 2) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(UserError, match="format 99; this version reads format 1"):
        go_on(run)


def test_a_folder_without_manifest_is_no_checkpoint(run: Path) -> None:
    (step_folder(run, 2) / "manifest.json").unlink()
    assert complete_steps(run) == []
    with pytest.raises(UserError, match=r"no manifest.json"):
        Manifest.read(step_folder(run, 2))


def test_a_checkpoint_of_another_model_is_refused_with_the_tensors_name(run: Path) -> None:
    path = step_folder(run, 2) / "manifest.json"
    raw = json.loads(path.read_text())
    raw["tensors"]["norm.wieght"] = raw["tensors"].pop("norm.weight")
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"no tensor 'norm.weight'; did you mean 'norm.wieght'"):
        go_on(run)


def test_a_disk_that_is_full_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """RLIMIT_FSIZE makes the kernel refuse the write half-way, as a full disk does."""
    original = checkpoint._write_share
    calls = [0]

    def limited(*args: object) -> object:
        calls[0] += 1
        if calls[0] != 1:
            return original(*args)  # type: ignore[arg-type]
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            return original(*args)  # type: ignore[arg-type]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(checkpoint, "_write_share", limited)
    train(small_config(data_folder(), "train.steps=6", "checkpoint.interval=2"), tmp_path)
    assert complete_steps(tmp_path) == [4, 6]
    assert "WARNING: checkpoint of step 2 was not written" in capsys.readouterr().err
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_the_last_checkpoint_must_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_share", full)
    with pytest.raises(checkpoint.SaveError, match=r"step 2 was not written \(rank 0: OSError.*No space left"):
        train(small_config(data_folder(), "train.steps=2"), tmp_path)
    assert complete_steps(tmp_path) == []


def test_the_last_n_and_every_mth_are_kept(tmp_path: Path) -> None:
    config = small_config(
        data_folder(), "train.steps=7", "checkpoint.interval=1", "checkpoint.keep_last=2", "checkpoint.keep_every=3"
    )
    train(config, tmp_path)
    assert complete_steps(tmp_path) == [3, 6, 7]


def test_what_a_killed_save_left_is_swept(run: Path) -> None:
    (run / "checkpoints" / ".step-00000009.tmp").mkdir()
    (run / "checkpoints" / ".step-00000001.trash").mkdir()
    sweep(run / "checkpoints", keep_last=1, keep_every=0)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000002"]


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, int], list[int], list[int], tuple[tuple[int, int], tuple[int, int]]]:
    """A matrix, cuts of its rows and columns, and a rectangle to read."""
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))}) for size in shape]
    wanted = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        wanted.append((start, draw(st.integers(start + 1, size))))
    return shape, cuts[0], cuts[1], (wanted[0], wanted[1])


@given(grids())
def test_any_rectangle_is_read_from_any_pieces(tmp_path_factory: pytest.TempPathFactory, grid: object) -> None:
    shape, rows, columns, wanted = grid  # type: ignore[misc]
    folder = tmp_path_factory.mktemp("pieces")
    whole = torch.arange(shape[0] * shape[1], dtype=torch.float32).view(shape)
    manifest = Manifest(1, {}, {}, {}, {"w": StoredTensor(shape)})
    for a, b in itertools.pairwise(rows):
        for c, d in itertools.pairwise(columns):
            file = f"{a}-{c}.safetensors"
            save_file({"master/w": whole[a:b, c:d].clone()}, folder / file)
            manifest.files[file] = {"sha256": sha256_of(folder / file), "bytes": (folder / file).stat().st_size}
            manifest.tensors["w"].pieces.append(StoredPiece(file, ((a, b), (c, d))))
    reader = PieceReader(folder, manifest)
    (a, b), (c, d) = wanted
    part = torch.empty(b - a, d - c)
    reader.read_into(part, "master", "w", wanted)
    assert torch.equal(part, whole[a:b, c:d])
    assert torch.equal(reader.whole("master", "w"), whole)
    manifest.tensors["w"].pieces.pop()
    with pytest.raises(UserError, match="master of w is incomplete"):
        reader.read_into(torch.empty(shape), "master", "w", ((0, shape[0]), (0, shape[1])))


def test_large_shares_go_into_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 20_000)
    train(small_config(data_folder(), "train.steps=2"), tmp_path / "many")
    monkeypatch.undo()
    train(small_config(data_folder(), "train.steps=2"), tmp_path / "one")
    assert len(list(step_folder(tmp_path / "many", 2).glob("*.safetensors"))) > 2
    one = dict(read_model_state(step_folder(tmp_path / "one", 2)))
    for name, value in read_model_state(step_folder(tmp_path / "many", 2)):
        assert torch.equal(value, one[name])
    go_on(tmp_path / "many")
