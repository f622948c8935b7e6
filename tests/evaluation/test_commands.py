"""`jpllm evaluate` and `jpllm report` on a small trained run, alone and under mpirun."""

from __future__ import annotations

import gzip
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pyjpllm.cli.app import run
from pyjpllm.cli.evaluate import _Progress
from pyjpllm.config import to_toml
from pyjpllm.evaluation import HeldOut
from tests.mpi import launch
from tests.training.small import data_folder, small_config

Run = Callable[..., tuple[str, str]]
A = ["計算機は速度を学習する。", "ＡＢＣは模型です。" * 12]
B = "文章と単語の確率\nを学習した。\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 4 steps, its export, and two corpora."""
    base = tmp_path_factory.mktemp("commands")
    config = to_toml(small_config(data_folder(), "train.steps=4", "train.eval_interval=2"))
    (base / "config.toml").write_text(config.replace("vocab_size = 0\n", ""), encoding="utf-8")
    with gzip.open(base / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in A)
    (base / "b.txt").write_text(B, encoding="utf-8")
    assert run(["train", str(base / "config.toml"), "--run", str(base / "run")]) == 0
    assert run(["convert", str(base / "run"), str(base / "hf")]) == 0
    return base


@pytest.fixture
def jpllm(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in the folder: (stdout, stderr), after checking the exit code."""
    monkeypatch.chdir(folder)

    def call(*words: str, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        found = run(words)
        out, err = capsys.readouterr()
        assert found == code, err
        return out, err

    return call


def test_figures_as_json(jpllm: Run) -> None:
    out, _ = jpllm("evaluate", "run", "-t", "a.jsonl.gz", "-t", "b.txt", "--baseline", "xz", "-b", "zlib", "--json")
    found = json.loads(out)
    assert (found["sequence_length"], found["stride"], found["start"]) == (32, 16, "eos")
    assert found["bytes"] == sum(len(text.encode()) for text in [*A, B])
    assert found["documents"] == 3
    assert found["changed_documents"] == 1  # the full-width letters
    assert set(found["corpora"]) == {"a.jsonl.gz", "b.txt"}
    assert sum(part["tokens"] for part in found["corpora"].values()) == found["tokens"]
    stream = "".join(text + "\n" for text in [*A, B]).encode()
    packed = len(lzma.compress(stream, preset=9 | lzma.PRESET_EXTREME))
    assert found["baselines"]["xz"]["compressed"] == packed
    assert found["baselines"]["xz"]["bits_per_byte"] == pytest.approx(8 * packed / found["bytes"])
    assert list(found["baselines"]) == ["xz", "zlib"]


def test_figures_as_a_table(jpllm: Run) -> None:
    out, _ = jpllm("evaluate", "run", "-t", "a.jsonl.gz", "-t", "b.txt", "-b", "xz", "--stride", "32")
    assert "windows of 32 tokens every 32, documents begin after eos" in out
    for word in ("a.jsonl.gz", "b.txt", "all", "xz -9e:", "come back from the tokenizer changed"):
        assert word in out
    one, _ = jpllm("evaluate", "run", "-t", "b.txt")
    assert "all" not in one


def test_a_checkpoint_and_its_export_agree(jpllm: Run) -> None:
    step = "run/checkpoints/step-00000004"
    results = [
        json.loads(jpllm("evaluate", *words, "-t", "b.txt", "--sequence-length", "40", "--json")[0])
        for words in (["run"], [step], ["hf"], ["run", "--dtype", "fp64"], ["run", "--kernels", "reference"])
    ]
    assert [result["nats"] for result in results] == pytest.approx([results[0]["nats"]] * 5, rel=1e-5)
    assert [result["start"] for result in results] == ["eos", "eos", "bos", "eos", "eos"]
    default = json.loads(jpllm("evaluate", "hf", "-t", "b.txt", "--json")[0])
    assert default["sequence_length"] == 64  # max_position
    low = json.loads(jpllm("evaluate", "run", "-t", "b.txt", "--json", "--dtype", "bf16", "--start", "bos")[0])
    assert low["nats"] == pytest.approx(results[0]["nats"], rel=0.02)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "--text is missing"),
        (["run", "-t", "nothing.txt"], "nothing.txt: no such file"),
        (["run", "-t", "b.txt", "-b", "xzz"], "did you mean 'xz'"),
        (["nowhere", "-t", "b.txt"], "nowhere is no folder"),
        (["run", "-t", "b.txt", "--stride", "33"], "stride 33"),
        (["run", "-t", "b.txt", "--tensor", "2"], "--tensor 2 does not divide the 1 ranks"),
        (["run", "-t", "b.txt", "--tokenizer", "hfx"], "hfx: no such tokenizer"),
        (["run", "-t", "b.txt", "--dtype", "fp16"], "fp16"),
    ],
)
def test_mistakes(jpllm: Run, words: list[str], message: str) -> None:
    out, err = jpllm("evaluate", *words, code=2)
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_no_gpu(jpllm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "sees no GPU" in jpllm("evaluate", "run", "-t", "b.txt", "--device", "cuda", code=2)[1]


def test_ranks_give_one_answer(folder: Path, jpllm: Run) -> None:
    words = ["evaluate", "run", "-t", "a.jsonl.gz", "-t", "b.txt", "--dtype", "fp64", "--json"]
    alone = json.loads(jpllm(*words)[0])
    done = launch([sys.executable, "-m", "pyjpllm", *words], 2, cwd=folder)
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout)
    assert shared["tokens"] == alone["tokens"]
    assert shared["nats"] == pytest.approx(alone["nats"], rel=1e-10)


def test_progress_is_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    display = _Progress(visible=True)
    display.shown -= 60
    display.update("web", HeldOut(nats=100.0, tokens=20, bytes=40, documents=2))
    display.update("web", HeldOut(nats=100.0, tokens=21, bytes=40, documents=3))  # too soon to be shown
    display.close()
    err = capsys.readouterr().err
    assert "web: 20 tokens scored, loss 5.0000" in err
    assert "21 tokens" not in err


def test_a_report(folder: Path, jpllm: Run) -> None:
    out, _ = jpllm("report", "run")
    assert "validation bits per byte" in out
    assert f"report: {Path('run') / 'report.html'}" in out
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert 'id="chart-loss"' in page
    found = json.loads(jpllm("report", "run", "--out", "page.html", "--json")[0])
    assert (found["step"], found["finished"], found["checkpoints"]) == (4, True, 1)
    assert found["report"] == "page.html"
    assert (folder / "page.html").exists()
    assert "no such folder" in jpllm("report", "nowhere", code=2)[1]
