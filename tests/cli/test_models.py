"""From a config to a run, a Hugging Face folder, a text and back to a run: the commands on one small model."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pyjpllm.cli.app import run
from pyjpllm.config import to_toml
from pyjpllm.training import find_model, load_model, read_model_state
from tests.mpi import launch
from tests.training.small import data_folder, small_config

Run = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.toml, and a run in run/ after 3 steps."""
    base = tmp_path_factory.mktemp("models")
    text = to_toml(small_config(data_folder(), "train.steps=3"))
    (base / "config.toml").write_text(text.replace("vocab_size = 0\n", ""), encoding="utf-8")
    assert run(["train", str(base / "config.toml"), "--run", str(base / "run")]) == 0
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


def test_a_run_is_resumed_and_then_done(folder: Path, jpllm: Run) -> None:
    assert find_model(folder / "run").name == "step-00000003"
    out, _ = jpllm("train", "config.toml", "--run", "run")
    assert "nothing to do: step 3 of 3 is done" in out


def test_a_text_is_continued(jpllm: Run) -> None:
    out, _ = jpllm("generate", "run", "--prompt", "計算機は", "-p", "言語", "--max-new-tokens", "8", "--seed", "3")
    first, *_ = out.splitlines()
    assert first.startswith("計算機は")
    again, _ = jpllm("generate", "run", "--prompt", "計算機は", "-p", "言語", "--max-new-tokens", "8", "--seed", "3")
    assert again == out
    text, _ = jpllm("generate", "run", "-p", "計算機は", "-p", "言語", "--max-new-tokens", "8", "--seed", "3", "--json")
    answers = json.loads(text)
    assert [answer["prompt"] for answer in answers] == ["計算機は", "言語"]
    assert out == "".join(f"{a['prompt']}{a['continuation']}\n" for a in answers)
    assert all(0 < answer["tokens"] <= 8 for answer in answers)


def test_a_run_is_read_from_its_second_copies(folder: Path, jpllm: Run) -> None:
    jpllm("train", "config.toml", "checkpoint.copy_to=copies", "--run", "twice")
    (folder / "heldout.jsonl").write_text('{"text": "計算機の言語を学習する。"}\n', encoding="utf-8")
    commands = (
        ("generate", "twice", "-p", "計算機", "--max-new-tokens", "4"),
        ("evaluate", "twice", "--text", "heldout.jsonl"),
        ("convert", "twice", "hf-of-twice"),
    )
    before = [jpllm(*words)[0] for words in commands]
    path = folder / "twice" / "checkpoints" / "step-00000003" / "rank-00000-000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for words, expected in zip(commands, before, strict=True):
        out, err = jpllm(*words)
        assert out == expected
        assert f"taken from its copy in {folder / 'copies' / 'step-00000003'}" in err
    shutil.rmtree(folder / "twice" / "checkpoints")
    for words, expected in zip(commands, before, strict=True):
        assert jpllm(*words)[0] == expected.replace("twice/checkpoints", str(folder / "copies"))
    assert jpllm(*(w.replace("twice", "copies/step-00000003") for w in commands[0]))[0] == before[0]


def test_a_text_comes_from_stdin(jpllm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("計算機は\n"))
    out, _ = jpllm("generate", "run", "--max-new-tokens", "2", "--temperature", "0")
    assert out.startswith("計算機は")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    answers = json.loads(jpllm("generate", "run", "--max-new-tokens", "2", "--json")[0])
    assert answers[0]["prompt"] == ""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert "give --prompt" in jpllm("generate", "run", code=2)[1]


@pytest.mark.parametrize("kernels", ["reference", "torch"])
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
def test_backends_and_types_agree_on_the_likeliest(kernels: str, dtype: str, jpllm: Run) -> None:
    from pyjpllm import ops

    words = ("generate", "run", "-p", "並列", "--max-new-tokens", "6", "--temperature", "0")
    want, _ = jpllm(*words)
    with ops.use_backend("torch"):
        assert jpllm(*words, "--kernels", kernels, "--dtype", dtype)[0] == want


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "rum", "-p", "x"], "rum"),
        (["generate", "run", "-p", "x", "--top-p", "0"], "--top-p 0.0 is out of range"),
        (["generate", "run", "-p", "x", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["generate", "run", "-p", "x", "--dtype", "fp8"], "--dtype"),
        (["generate", "run", "-p", "a\udcff"], "is not UTF-8"),
        (["generate", "run", "-p", "x", "--seed", str(1 << 70)], "--seed"),
        (["generate", "run", "-p", "x", "--tokenizer", "nowhere/x"], "nowhere"),
        (["generate", "run", "--promt", "x"], "did you mean --prompt?"),
        (["generate"], "PATH"),
        (["convert", "run"], "DST"),
        (["convert", "rum", "x"], "rum"),
        (["convert", "run", "run/checkpoints/step-00000003"], "is the source itself"),
        (["convert", "run", "config.toml"], "DST config.toml: is a file; name a folder"),
        (["convert", "run", "config.toml/x"], "DST config.toml/x: config.toml is no folder"),
        (["convert", "run", "config.toml/x", "--to", "checkpoint", "--config", "config.toml"], "is no folder"),
        (["convert", "run", "run"], "holds something else"),
        (["convert", "run", "x", "--to", "onnx"], "--to"),
        (["convert", "run", "x", "--config", "config.toml"], "--config goes with --to checkpoint"),
        (["convert", "run", "x", "--to", "checkpoint"], "needs --config"),
        (
            ["convert", "run", "x", "--to", "checkpoint", "--config", "config.toml", "--dtype", "bf16"],
            "go with --to hf",
        ),
        (["convert", "run", "run", "--to", "checkpoint", "--config", "config.toml"], "has checkpoints already"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, jpllm: Run) -> None:
    out, err = jpllm(*words, code=2)
    assert out == ""
    (line,) = err.splitlines()
    assert said in line


def test_a_damaged_checkpoint_is_named(folder: Path, jpllm: Run) -> None:
    shutil.copytree(folder / "run", folder / "damaged")
    file = next((folder / "damaged").rglob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for words in (("convert", "damaged", "out-damaged"), ("generate", "damaged", "-p", "x")):
        _, err = jpllm(*words, code=2)
        assert f"{file.name} is damaged" in err
    assert not (folder / "out-damaged").exists()


def test_what_a_killed_export_left_is_taken_over(folder: Path, jpllm: Run) -> None:
    jpllm("convert", "run", "killed")
    for name in ("config.json", "generation_config.json"):
        (folder / "killed" / name).unlink()
    (folder / "killed" / ".model.safetensors.1.tmp").touch()
    jpllm("convert", "run", "killed")
    assert (folder / "killed" / "config.json").is_file()
    (folder / "killed" / "config.json").unlink()
    (folder / "killed" / "notes.txt").touch()
    assert "holds something else" in jpllm("convert", "run", "killed", code=2)[1]


def test_transformers_loads_what_is_converted(folder: Path, jpllm: Run) -> None:
    transformers = pytest.importorskip("transformers")
    out, _ = jpllm("convert", "run", "exported")
    assert "parameters as float32" in out
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "exported").eval()
    words = transformers.AutoTokenizer.from_pretrained(folder / "exported")
    ours = load_model(folder / "run")
    ids = torch.tensor([words.encode("計算機は並列に学習する。", add_special_tokens=False)])
    with torch.no_grad():
        want = theirs(ids).logits[0]
        got = ours.model.logits(ours.model(ids))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    answer = json.loads(jpllm("convert", "run/checkpoints/step-00000003", "exported", "--json", "--dtype", "bf16")[0])
    assert answer["dtype"] == "bfloat16"
    assert answer["parameters"] == sum(p.numel() for p in theirs.parameters())


def test_a_folder_goes_through_our_model_unchanged(folder: Path, jpllm: Run) -> None:
    from safetensors.torch import load_file

    jpllm("convert", "run", "first", "--dtype", "bf16")
    out, _ = jpllm("convert", "first", "second")
    assert "as bfloat16" in out
    one, two = (load_file(folder / name / "model.safetensors") for name in ("first", "second"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    left, right = (json.loads((folder / name / "config.json").read_text()) for name in ("first", "second"))
    assert left == right


def test_a_folder_becomes_the_start_of_a_run(folder: Path, jpllm: Run) -> None:
    jpllm("convert", "run", "base")
    out, _ = jpllm("convert", "base", "continued", "--to", "checkpoint", "--config", "config.toml")
    assert "step-00000000" in out
    before = dict(read_model_state(find_model(folder / "run")))
    after = dict(read_model_state(find_model(folder / "continued")))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "計算機" in jpllm("generate", "continued", "-p", "計算機", "--max-new-tokens", "1")[0]
    assert "finished 3 steps" in jpllm("train", "config.toml", "--run", "continued")[0]


def test_a_folder_of_another_shape_is_refused(folder: Path, jpllm: Run) -> None:
    jpllm("convert", "run", "base2")
    text = (folder / "config.toml").read_text()
    for old, new, said in (
        ("intermediate_size = 48", "intermediate_size = 64", "by other.toml"),
        ("num_layers = 2", "num_layers = 3", "has no 'blocks.2."),
        ("num_layers = 2", "num_layers = 1", "which the model of other.toml has not"),
    ):
        (folder / "other.toml").write_text(text.replace(old, new))
        _, err = jpllm("convert", "base2", "other", "--to", "checkpoint", "--config", "other.toml", code=2)
        assert said in err
    assert not (folder / "other").exists()


def test_a_config_starts_from_a_folder(folder: Path, jpllm: Run) -> None:
    jpllm("convert", "run", "base3")
    text = (folder / "config.toml").read_text()
    end = text.index("[data]")
    (folder / "from.toml").write_text(f'[model]\ninit_from = "base3"\n\n{text[end:]}')
    answer = json.loads(jpllm("train", "from.toml", "--check", "--json")[0])
    assert answer["config"]["model"]["intermediate_size"] == 48
    assert answer["config"]["model"]["tie_embeddings"] is True
    _, err = jpllm("train", "from.toml", "--check", "model.num_layers=5", code=2)
    assert "the weights in model.init_from have 2" in err


def test_ranks_share_a_model_and_say_the_same(folder: Path, jpllm: Run) -> None:
    words = ["generate", str(folder / "run"), "-p", "計算機は", "--max-new-tokens", "6", "--temperature", "0"]
    want, _ = jpllm(*words)
    done = launch([sys.executable, "-m", "pyjpllm", *words], 2, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == want
