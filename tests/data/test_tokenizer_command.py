"""`jpllm tokenizer train` and `encode`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyjpllm.cli import tokenizer as command_module
from pyjpllm.cli.app import run
from pyjpllm.data import IndexedDataset, Tokenizer
from pyjpllm.data.encode import EncodeStats
from tests.data.corpora import texts


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(600)))
    return path


def test_train_and_encode(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "tokenizer", tmp_path / "tokens" / "t"
    train = ["tokenizer", "train", str(text), "--out", str(folder), "--vocab-size", "480", "--kind", "bpe"]
    assert run(train) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{folder}/tokenizer.model: bpe of 480 tokens, in ")
    assert "training on 600 documents" in said.err
    first = Tokenizer.load(folder).fingerprint
    assert run([*train, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sha256"] == first
    assert (answer["vocab_size"], answer["kind"], answer["seed"]) == (480, "bpe", 1234)

    encode = ["tokenizer", "encode", str(text), "--tokenizer", str(folder), "--out", str(out), "--workers", "1"]
    assert run(encode) == 0
    assert f"{out}.bin, .idx: 600 documents, " in capsys.readouterr().out
    assert run([*encode, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    dataset = IndexedDataset(out)
    assert (answer["documents"], answer["tokens"]) == (len(dataset), dataset.index.num_tokens)
    assert answer["characters_per_token"] > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "{none}", "--out", "{tmp}/x"], "none.jsonl: no such file or folder"),
        (["train", "{text}", "--out", "{tmp}/x", "--vocab-size", "100"], "vocab size 100"),
        (["train", "{text}", "--out", "{tmp}/x", "--kind", "word"], "--kind"),
        (["encode", "{text}", "--tokenizer", "{tmp}", "--out", "{tmp}/x"], "tokenizer.model: no such tokenizer"),
        (["encode", "{text}", "--tokenizer", "{tmp}", "--out", "{tmp}/x.idx"], "name the prefix without .idx"),
    ],
)
def test_mistakes(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    places = {"none": str(tmp_path / "none.jsonl"), "tmp": str(tmp_path), "text": str(text)}
    assert run(["tokenizer", *(word.format(**places) for word in words)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["train", "encode"])
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(["tokenizer", name, "--help"]) == 0
    assert f"Example: jpllm tokenizer {name} " in " ".join(capsys.readouterr().out.split())


def test_progress_in_a_log_and_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(command_module.time, "monotonic", lambda: now[0])
    with command_module._Display() as display:
        for second in range(25):
            now[0] = float(second)
            display.say(lambda: command_module._progress_line(EncodeStats(1, 2, 3, 4_000_000), 2.0))
    assert capsys.readouterr().err.splitlines() == ["encoding: 1 documents, 2 tokens, 2.0 MB/s"] * 2
    monkeypatch.setattr(command_module.sys.stderr, "isatty", lambda: True)
    with command_module._Display() as display:
        display.say(lambda: "reading", now=True)
        assert display._status is not None
