"""Every mistake is one line with the field and the nearest right one, exit code 2, and no rank starts work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pyjpllm.cli.app import run
from tests.cli.bad_inputs import BAD
from tests.config.builders import TEXT, write_project
from tests.mpi import launch


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder with a valid project, and a trainer that must not be reached."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pyjpllm.training.trainer.train", lambda *_: pytest.fail("a rank started work"))
    write_project(tmp_path)
    return tmp_path


def test_there_are_enough() -> None:
    assert len(BAD) >= 100


@pytest.mark.parametrize("name", BAD)
def test_one_line_each(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = BAD[name]
    text = TEXT
    for old, new in bad.edits:
        assert old in text
        text = text.replace(old, new)
    (project / "run.toml").write_text(text, encoding="utf-8")
    code = run(["train", "run.toml", *bad.words, "--run", "runs/x"])
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert code == 2, err
    assert out == ""
    assert len(lines) == len(bad.lines), err
    for line, parts in zip(lines, bad.lines, strict=True):
        assert line.startswith("jpllm: ")
        for part in parts:
            assert part in line, err
    assert not (project / "runs").exists()


FILES = {
    "no such file": ("runn.toml", "no such file", "did you mean 'run.toml'"),
    "no such folder": ("tokns/run.toml", "no such file", "did you mean 'tokens'"),
    "nothing like it": ("zzzzzzzz.toml", "no such file", "there is no 'zzzzzzzz.toml' in"),
    "a folder": (".", "is a folder", "did you mean 'run.toml'"),
    "an empty folder": ("tokens", "is a folder", "no .toml"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_config_file_itself(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, *parts = FILES[name]
    assert run(["train", path, "--run", "runs/x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in parts:
        assert part in line


def test_a_file_that_is_no_text(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "run.toml").write_bytes("[model]\nx = '昔'\n".encode("euc-jp"))
    assert run(["train", "run.toml", "--run", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run.toml:2: not UTF-8" in line


WORDS = {
    "command": (["trian", "x"], "did you mean 'jpllm train'"),
    "command unlike any": (["zzzzz"], "there are corpus, tokenizer, train"),
    "option": (["train", "run.toml", "--rn", "x"], "did you mean --run"),
    "option unlike any": (["train", "--zzzzzz"], "there are --run"),
    "option without value": (["train", "run.toml", "--run"], "'--run' requires an argument"),
    "option of jpllm": (["--versoin"], "did you mean --version"),
    "value of an option": (["train", "run.toml", "--check", "--ranks", "many"], "--ranks"),
    "range of an option": (["train", "run.toml", "--check", "--ranks", "0"], "--ranks"),
    "no config": (["train"], "jpllm train config.toml --run"),
    "no run": (["train", "run.toml"], "--run runs/run"),
    "run is a file": (["train", "run.toml", "--run", "run.toml"], "is a file"),
    "ranks without check": (["train", "run.toml", "--ranks", "3", "--run", "x"], "goes with --check"),
}


@pytest.mark.parametrize("name", WORDS)
def test_the_command_line_itself(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, part = WORDS[name]
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("jpllm")
    assert part in line


def test_under_mpirun_one_rank_speaks_and_none_starts(tmp_path: Path) -> None:
    write_project(tmp_path, TEXT.replace("global_batch = 8", "global_batch = 10"))
    done = launch([sys.executable, "-m", "pyjpllm", "train", "run.toml", "--run", "runs/x"], 2, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if "jpllm" in line]
    assert done.returncode == 2
    assert len(lines) == 1, done.stderr
    assert "train.global_batch = 10: is no multiple of train.micro_batch x data-parallel ranks = 2 x 2 = 4" in lines[0]
    assert "nearest: 8 or 12" in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
