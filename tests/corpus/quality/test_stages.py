"""The stages in a pipeline, their mistakes, and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyjpllm.cli.app import run
from pyjpllm.corpus import read_documents
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import load_corpus_config
from pyjpllm.corpus.quality import load_classifier, load_language_model
from pyjpllm.errors import UserError
from tests.corpus.quality.examples import labelled, write

PIPELINE = """
[input]
paths = ["in.jsonl"]
[output]
format = "jsonl"
dropped = true
[run]
processes = {processes}
shard_mib = 1
[[stage]]
kind = "classifier"
model = "keep.safetensors"
min_score = 0.5
[[stage]]
kind = "perplexity"
model = "text.safetensors"
mode = "mark"
max_perplexity = 20.0
[[stage]]
kind = "dedup-minhash"
measure = "score"
"""


TRAIN = ["corpus", "classifier", "train", "labelled.jsonl", "--good", "keep", "--out", "keep.safetensors"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with documents of two kinds, a classifier and a language model."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "labelled.jsonl", labelled(["drop", "keep"], 50))
    write(tmp_path / "in.jsonl", labelled(["drop", "keep"], 40, seed=1))
    small = ["--bits", "10", "--longest", "2"]
    assert run([*TRAIN, *small]) == 0
    assert run(["corpus", "perplexity", "train", "labelled.jsonl", "--out", "text.safetensors"]) == 0
    return tmp_path


def _pipeline(folder: Path, *edits: tuple[str, str], processes: int = 1) -> Path:
    text = PIPELINE.format(processes=processes)
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (folder / "pipeline.toml").write_text(text, encoding="utf-8")
    return folder / "pipeline.toml"


def test_a_pipeline(folder: Path) -> None:
    report = build_corpus(load_corpus_config(_pipeline(folder)), "run")
    classifier, model = load_classifier("keep.safetensors"), load_language_model("text.safetensors")
    kept, dropped = (list(read_documents(f"run/{name}")) for name in ("documents", "dropped"))
    assert 30 < len(kept) < 50
    assert len(kept) + len(dropped) == 80
    for document in [*kept, *dropped]:
        (score,) = classifier.scores([document.text])
        assert document.meta["score"] == round(score, 6)
        assert ("dropped" in document.meta) == (score < 0.5)
    for document in dropped:
        assert document.meta["dropped"] == {"stage": "classifier", "reason": "low-score"}
    for document in kept:
        assert document.meta["perplexity"] == round(model.perplexities([document.text])[0], 6)
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert stages["classifier"]["limits"] == {"score": [0.5, None]}
    assert stages["perplexity"]["limits"] == {"perplexity": [None, 20.0]}
    assert stages["perplexity"]["dropped"] == {}  # marked only
    assert sum(stages["classifier"]["measures"]["score"].values()) == 80
    assert all(
        float(value) in (0, *(n / 100 for n in range(1, 101))) for value in stages["classifier"]["measures"]["score"]
    )


def test_more_processes_write_the_same(folder: Path) -> None:
    for processes in (1, 2):
        build_corpus(load_corpus_config(_pipeline(folder, processes=processes)), f"run{processes}")
    one, two = (sorted(Path(name, "documents").iterdir()) for name in ("run1", "run2"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]


def test_perplexity_drops(folder: Path) -> None:
    limits = ('mode = "mark"\nmax_perplexity = 20.0', "min_perplexity = 10.0\nmax_perplexity = 20.0")
    report = build_corpus(load_corpus_config(_pipeline(folder, limits, ("min_score = 0.5", "min_score = 0.0"))), "run")
    model = load_language_model("text.safetensors")
    values = model.perplexities([document.text for document in read_documents("in.jsonl")])
    found = {name: tally["documents"] for name, tally in report["stages"][1]["dropped"].items()}
    expected = {
        "low-perplexity": sum(value < 10 for value in values),
        "high-perplexity": sum(value > 20 for value in values),
    }
    assert found == {name: count for name, count in expected.items() if count}
    assert found


def test_a_run_does_not_go_on_with_another_model(folder: Path) -> None:
    config = load_corpus_config(_pipeline(folder))
    build_corpus(config, "run")
    build_corpus(config, "run")
    assert run(TRAIN) == 0
    with pytest.raises(UserError, match="holds a run that read another"):
        build_corpus(config, "run")


MISTAKES = {
    "no limit": (("min_score = 0.5", ""), 'min_score is missing; mode = "mark" needs none'),
    "order": (("max_perplexity = 20.0", "max_perplexity = 2.0\nmin_perplexity = 3.0"), "must be less than"),
    "label": (
        ("min_score = 0.5", 'min_score = 0.5\nlabel = "kep"'),
        "stage.label = 'kep': keep.safetensors has no label",
    ),
    "range": (
        ("min_score = 0.5", "min_score = 2.5"),
        "stage.min_score = 2.5: scores of keep.safetensors lie between 0",
    ),
    "model": (('"keep.safetensors"', '"kep.safetensors"'), "did you mean 'keep.safetensors'"),
    "kind": (('"keep.safetensors"', '"text.safetensors"'), "holds a language model, where a classifier is needed"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, message = MISTAKES[name]
    config = _pipeline(folder, edit)
    capsys.readouterr()
    assert run(["corpus", "build", str(config), "--run", "run"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def _answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert run([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _answer(capsys, "corpus", "classifier", "evaluate", "keep.safetensors", "in.jsonl")
    assert found["documents"] == 80
    assert found["auc"] > 0.9
    assert found["thresholds"][0]["kept"] == 1.0
    assert run(["corpus", "classifier", "evaluate", "keep.safetensors", "in.jsonl"]) == 0
    assert "calibration error" in capsys.readouterr().out
    found = _answer(capsys, "corpus", "perplexity", "evaluate", "text.safetensors", "in.jsonl")
    assert found["documents"] == 80
    assert run(["corpus", "perplexity", "evaluate", "text.safetensors", "in.jsonl"]) == 0
    assert "50% of the documents have at most" in capsys.readouterr().out
    write(folder / "graded.jsonl", labelled([0, 1, 2], 60), "grade")
    train = ["corpus", "classifier", "train", "graded.jsonl", "--label", "grade", "--out", "grade.safetensors"]
    assert _answer(capsys, *train, "--bits", "10", "--good", "1")["labels"] == {"0": 60, "1": 60, "2": 60}
    found = _answer(capsys, "corpus", "classifier", "evaluate", "grade.safetensors", "graded.jsonl")
    assert found["good"] == 1
    assert found["thresholds"][10]["threshold"] == 1.0  # of the expected value, which goes to 2
    write(folder / "good.jsonl", labelled(["a"], 40))
    write(folder / "bad.jsonl", labelled(["b", "c"], 40)[40:])
    two = ["--positive", "good.jsonl", "--negative", "bad.jsonl"]
    found = _answer(capsys, "corpus", "classifier", "train", *two, "--out", "two.safetensors", "--bits", "10")
    assert found["labels"] == {"negative": 40, "positive": 40}
    assert _answer(capsys, "corpus", "classifier", "evaluate", "two.safetensors", *two)["good"] == "positive"


WORDS = {
    "no labels": (["train", "--out", "m"], "both --positive and --negative"),
    "half": (["train", "--positive", "in.jsonl", "--out", "m"], "both --positive and --negative"),
    "both ways": (["train", "in.jsonl", "--positive", "in.jsonl", "--out", "m"], "two ways to label"),
    "field": (["train", "in.jsonl", "--label", "lable", "--out", "m"], "did you mean 'label'"),
    "empty": (["evaluate", "keep.safetensors", "empty.jsonl"], "no document to evaluate on"),
    "learn": (["train", "empty.jsonl", "--out", "m"], "no document to learn from"),
}


@pytest.mark.parametrize("name", WORDS)
def test_mistakes_in_commands(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.jsonl").write_bytes(b"")
    capsys.readouterr()
    words, message = WORDS[name]
    assert run(["corpus", "classifier", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "m").exists()
