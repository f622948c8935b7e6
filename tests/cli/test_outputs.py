"""Where commands write: missing folders are made, and a path that cannot be is said before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyjpllm.cli import outputs
from pyjpllm.cli.app import run
from pyjpllm.errors import UserError

TEXT = '{"text": "あいうえお"}\n'
COMMANDS = {
    "perplexity": ["corpus", "perplexity", "train", "a.jsonl", "--out"],
    "classifier": ["corpus", "classifier", "train", "a.jsonl", "--out"],
    "tokenizer": ["tokenizer", "train", "a.jsonl", "--out"],
    "encode": ["tokenizer", "encode", "a.jsonl", "--tokenizer", "t", "--out"],
    "build": ["corpus", "build", "p.toml", "--run"],
    "inspect": ["corpus", "inspect", "a.jsonl", "--preset", "nwjc", "--html"],
    "plan": ["plan", "schedule", "zb-v", "--html"],
    "report": ["report", "run", "--out"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_below_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text(TEXT, encoding="utf-8")
    Path("p.toml").write_text('input.paths = ["a.jsonl"]\n', encoding="utf-8")
    assert run([*COMMANDS[name], "a.jsonl/x/m"]) == 2
    err = capsys.readouterr().err
    assert f"{COMMANDS[name][-1]} a.jsonl/x/m: a.jsonl is no folder" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["perplexity", "classifier", "inspect", "plan", "report"])
def test_a_folder_in_place_of_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text(TEXT, encoding="utf-8")
    Path("m").mkdir()
    assert run([*COMMANDS[name], "m"]) == 2
    assert f"{COMMANDS[name][-1]} m: is a folder; name a file in it" in capsys.readouterr().err


def test_a_link_and_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("real").mkdir()
    Path("link.html").symlink_to("real/page.html")
    os.mkfifo("pipe")
    assert run([*COMMANDS["plan"], "link.html"]) == 0
    assert Path("link.html").is_symlink()
    assert "<svg" in Path("real/page.html").read_text(encoding="utf-8")
    assert run([*COMMANDS["plan"], "pipe"]) == 2
    assert "--html pipe: is a device or a pipe; name a file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "pipe", "real"]


def test_a_file_in_place_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.toml").write_text('input.paths = ["a.jsonl"]\n', encoding="utf-8")
    assert run([*COMMANDS["build"], "p.toml"]) == 2
    assert capsys.readouterr().err == "jpllm: --run p.toml: is a file; name a folder\n"


def test_folders_are_made_and_things_are_counted_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "あ"}\n', encoding="utf-8")
    assert run(["corpus", "perplexity", "train", "a.jsonl", "--out", "x/y/m", "--held-out", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 document of 1 character: 1 n-gram, 1 of them in the model\n")
    assert Path("x/y/m").is_file()
    Path("a.jsonl").write_text('{"text": "あい"}\n' * 2, encoding="utf-8")
    assert run(["corpus", "perplexity", "evaluate", "x/y/m", "a.jsonl"]) == 0
    assert capsys.readouterr().out.startswith("2 documents of 4 characters: perplexity per character ")


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=r"--out x/m: nothing may be written into \.$"):
        outputs.file_to_write("--out", Path("x/m"))
    outputs.file_to_write("--out", tmp_path.parent / "m")
