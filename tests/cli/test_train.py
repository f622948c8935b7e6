"""`jpllm train`: what reaches the trainer, what a checked config prints, how ends become exit codes."""

from __future__ import annotations

import json
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyjpllm.cli import exits
from pyjpllm.cli.app import run
from pyjpllm.config import load_config
from tests.config.builders import TEXT, write_project


@dataclass
class Trainer:
    """Stands for pyjpllm.training.trainer."""

    calls: list[tuple[Any, Path]]
    end: Any


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exits, "_working", False)
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "RANK", "JPLLM_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    write_project(tmp_path)
    stand_in = Trainer([], types.SimpleNamespace(finished=True, exit_reason="finished 100 steps"))

    def train(config: Any, run_dir: Path) -> Any:
        stand_in.calls.append((config, run_dir))
        if isinstance(stand_in.end, BaseException):
            raise stand_in.end
        return stand_in.end

    monkeypatch.setattr("pyjpllm.training.trainer.train", train)
    return stand_in


def test_a_run(trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "run.toml", "train.steps=7", "--run", "runs/x", "schedule.warmup_steps=1"]) == 0
    ((config, folder),) = trainer.calls
    assert (config.train.steps, config.schedule.warmup_steps, folder) == (7, 1, Path("runs/x"))
    assert capsys.readouterr().out == "runs/x: finished 100 steps\n"


def test_a_run_that_was_stopped_is_not_done(trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    trainer.end = types.SimpleNamespace(finished=False, exit_reason="SIGTERM: stopped after step 3 of 100")
    assert run(["train", "run.toml", "--run", "x"]) == 1
    assert "SIGTERM" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["TrainingError", "SaveError"])
def test_a_run_that_failed_is_one_line(kind: str, trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    from pyjpllm.training.checkpoint import SaveError
    from pyjpllm.training.faults import TrainingError

    trainer.end = {"TrainingError": TrainingError, "SaveError": SaveError}[kind]("what went wrong")
    assert run(["train", "run.toml", "--run", "x"]) == 1
    assert capsys.readouterr().err == "jpllm: what went wrong\n"


def test_check_trains_nothing(trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "run.toml", "--check", "parallel.tensor=2", "--ranks", "4"]) == 0
    out = capsys.readouterr().out
    assert "# run.toml: ready for 4 ranks" in out
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(out)
    assert load_config(resolved) == load_config(tmp_path / "run.toml", ["parallel.tensor=2"])
    assert run(["train", "run.toml", "--check", "parallel.tensor=4"]) == 0
    assert "ready for 4 ranks" in capsys.readouterr().out
    assert run(["train", "run.toml", "--check", "parallel.tensor=2", "--ranks", "3"]) == 2
    assert "parallel.tensor = 2" in capsys.readouterr().err
    assert not trainer.calls


def test_check_answers_in_json(trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "run.toml", "--check", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert answer["config"]["train"]["steps"] == 100


def test_check_does_not_ask_for_the_hardware(trainer: Trainer) -> None:
    assert run(["train", "run.toml", "--check", "train.device=cuda"]) == 0


def test_a_launcher_that_does_not_tell_the_size(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PMIX_RANK", "0")
    monkeypatch.delenv("PJM_MPI_PROC", raising=False)
    assert run(["train", "run.toml", "--run", "x", "parallel.tensor=4"]) == 0
    assert len(trainer.calls) == 1
    assert run(["train", "run.toml", "--run", "x", "train.eval_interval=7", "data.valid=[]"]) == 2


def test_a_folder_to_start_from(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyjpllm.config import PRESETS
    from pyjpllm.config.schema import ModelConfig

    huggingface = pytest.importorskip("pyjpllm.model.huggingface")
    monkeypatch.setattr(huggingface, "load_config", lambda folder: ModelConfig(**PRESETS["tiny"], vocab_size=77))
    (tmp_path / "run.toml").write_text(TEXT.replace('preset = "tiny"', 'init_from = "llama"'))
    assert run(["train", "run.toml", "--run", "x"]) == 0
    assert trainer.calls[0][0].model.vocab_size == 77
