"""Reading a run folder: what a kill, a resume and NaN leave behind."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.errors import UserError
from pyjpllm.evaluation.metrics import read_metrics, read_run
from tests.evaluation.fake_run import make_run


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", 40))
    assert run.metrics.steps.tolist() == list(range(1, 41))
    assert run.metrics.column("seconds.backward").tolist() == [0.9] * 40
    assert np.isfinite(run.metrics.column("valid_loss")).sum() == 10
    assert run.config["train"]["steps"] == 40
    assert [c.step for c in run.checkpoints] == [20, 40]
    assert all(c.complete and c.files == 2 and c.bytes == 5002 for c in run.checkpoints)
    assert len(run.samples) == 10
    assert run.metrics.unreadable == 0


def test_a_last_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "m", ['{"step": 1, "loss": 5.0}', '{"step": 2, "lo'])
    metrics = read_metrics(path)
    assert metrics.steps.tolist() == [1]
    assert metrics.unreadable == 0


def test_lines_that_are_no_metrics_are_counted(tmp_path: Path) -> None:
    bad = ["nonsense", "[1]", '{"loss": 1}', '{"step": "3"}', '{"step": -1}', '{"step": true}', "", "null", "[" * 9000,
           '{"step": 99999999999999999999}', '{"step": 2, "loss": ' + "9" * 400 + "}"]  # fmt: skip
    path = write(tmp_path / "m", ['{"step": 1, "loss": 5.0}', *bad, '{"step": 2, "loss": 4.0, "note": "text"}', ""])
    metrics = read_metrics(path)
    assert metrics.steps.tolist() == [1, 2]
    assert metrics.unreadable == len(bad) - 1  # the empty line says nothing
    assert "note" not in metrics.columns


def test_nan_infinity_and_null_are_values(tmp_path: Path) -> None:
    lines = ['{"step": 1, "loss": NaN}', '{"step": 2, "loss": null}', '{"step": 3, "loss": Infinity}', '{"step": 4}']
    metrics = read_metrics(write(tmp_path / "m", [*lines, '{"step": 5, "loss": "-inf"}', '{"step": 6, "loss": 2}', ""]))
    loss = metrics.column("loss")
    assert np.isnan(loss[[0, 1, 3]]).all()
    assert loss[2] == math.inf
    assert loss[4] == -math.inf
    assert metrics.last("loss") == 2.0
    assert metrics.last("nothing") is None


def test_a_resume_replaces_the_steps_it_computes_again(tmp_path: Path) -> None:
    first = [json.dumps({"step": s, "loss": 1.0, "valid_loss": 1.0}) for s in range(1, 8)]
    again = [json.dumps({"step": s, "loss": 2.0}) for s in range(4, 6)]
    metrics = read_metrics(write(tmp_path / "m", [*first, *again, ""]))
    assert metrics.steps.tolist() == [1, 2, 3, 4, 5]
    assert metrics.column("loss").tolist() == [1, 1, 1, 2, 2]
    assert np.isnan(metrics.column("valid_loss")[3:]).all()
    assert metrics.rewinds == (4,)


def test_two_lines_of_one_step_are_one_step(tmp_path: Path) -> None:
    metrics = read_metrics(write(tmp_path / "m", ['{"step": 1, "loss": 3}', '{"step": 1, "valid_loss": 4}', ""]))
    assert metrics.steps.tolist() == [1]
    assert (metrics.last("loss"), metrics.last("valid_loss")) == (3.0, 4.0)
    assert metrics.rewinds == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.floats(-5, 5)), max_size=40))
def test_the_newest_line_of_a_step_wins(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[int, float]]
) -> None:
    path = tmp_path_factory.mktemp("m") / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s, "loss": v}) + "\n" for s, v in lines))
    expected: dict[int, float] = {}
    for step, value in lines:
        expected = {s: v for s, v in expected.items() if s < step} | {step: value}
    metrics = read_metrics(path)
    assert dict(zip(metrics.steps.tolist(), metrics.column("loss").tolist(), strict=True)) == expected


def test_a_run_that_has_only_started(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[train]\nsteps = 3\n")
    run = read_run(tmp_path)
    assert len(run.metrics.steps) == 0
    assert run.samples == ()
    assert run.checkpoints == ()


def test_an_interrupted_save_and_strange_files_among_the_checkpoints(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 4)
    (run / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    (run / "checkpoints" / "step-abc").mkdir()
    (run / "checkpoints" / "step-00000009").write_text("a file")
    assert [(c.step, c.complete) for c in read_run(run).checkpoints] == [(2, True), (4, False)]


def test_a_checkpoint_that_goes_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", 4)
    real = Path.rglob

    def rglob(folder: Path, pattern: str) -> Any:
        found = list(real(folder, pattern))
        if folder.name == "step-00000002":
            shutil.rmtree(folder)
        return found

    monkeypatch.setattr(Path, "rglob", rglob)
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    assert [checkpoint.step for checkpoint in read_run(run).checkpoints] == [4]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"train = 1\n", r"config\.toml: train = 1: a section is expected"),
        (b"a = '\xff'\n", r"config\.toml: not UTF-8"),
    ],
)
def test_a_config_that_is_none(content: bytes, said: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 2)
    (run / "config.toml").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_run(run)


def test_samples_of_a_repeated_step_and_broken_lines(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 2)
    lines = [
        '{"step": 2, "prompt": "p", "text": "old"}',
        '{"step": 2, "prompt": "p", "text": "新\u2028しい"}',
        '{"step": 3}',
        '{"st',
    ]
    (run / "samples.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert [sample.text for sample in read_run(run).samples] == ["新\u2028しい"]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "none")
    make_run(tmp_path / "runs" / "first", 2)
    with pytest.raises(UserError, match=r"did you mean '.*first'"):
        read_run(tmp_path / "runs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither config\.toml nor metrics\.jsonl$"):
        read_run(tmp_path / "empty")


@pytest.mark.parametrize("name", ["config.toml", "environment.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run", 2)
    (run / name).write_text("[[[")
    with pytest.raises(UserError, match=name):
        read_run(run)
