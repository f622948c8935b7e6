"""The run folder's records survive kills and resumes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import torch

from pyjpllm.training.metrics import JsonLines, MetricsWriter, Timers, drop_after
from pyjpllm.training.progress import ProgressReport
from tests.mpi import mpirun, rank_environment


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "m.jsonl")
    lines.write({"step": 1, "loss": float("nan"), "seconds": {"total": float("inf")}, "text": "日本"})
    lines.close()
    assert read(tmp_path / "m.jsonl") == [{"step": 1, "loss": None, "seconds": {"total": None}, "text": "日本"}]
    assert "日本" in (tmp_path / "m.jsonl").read_text()


def test_a_line_cut_by_a_kill_is_dropped_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    lines = JsonLines(path)
    lines.write({"step": 3})
    lines.close()
    assert [r["step"] for r in read(path)] == [1, 2, 3]


def test_a_resumed_run_drops_the_records_it_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("".join(f'{{"step": {s}}}\n' for s in range(1, 8)) + '{"step"')
    drop_after(path, 4)
    assert [r["step"] for r in read(path)] == [1, 2, 3, 4]
    drop_after(path, 9)
    assert len(read(path)) == 4
    drop_after(tmp_path / "absent.jsonl", 1)


def test_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\nnot json\n\n{"step": 2}\n{"step": 3}\nnot json\n{"step": 4}\n')
    drop_after(path, 3)
    assert path.read_text() == '{"step": 1}\nnot json\n\n{"step": 2}\n{"step": 3}\n'


def test_the_writer_makes_lines_samples_and_events(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, first_step=1, tensorboard=True)
    writer.step({"step": 1, "loss": 2.5, "mfu": None, "seconds": {"total": 0.5}})
    writer.sample(1, "こん", "にちは")
    writer.close()
    assert read(tmp_path / "metrics.jsonl")[0]["loss"] == 2.5
    assert read(tmp_path / "samples.jsonl") == [{"step": 1, "prompt": "こん", "text": "にちは"}]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == [2.5]
    assert [e.value for e in events.Scalars("seconds/total")] == [0.5]


def test_no_event_file_without_tensorboard(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, first_step=1, tensorboard=False)
    writer.step({"step": 1, "loss": 2.5})
    writer.close()
    assert not list(tmp_path.glob("events.*"))


def test_phases_add_up_within_the_total() -> None:
    timers = Timers(torch.device("cpu"))
    for _ in range(2):
        with timers.phase("forward"):
            sum(range(1000))
    seconds = timers.restart()
    assert 0 < seconds["forward"] <= seconds["total"]
    assert set(timers.restart()) == {"total"}


RECORD = {"step": 10, "loss": 1.0, "lr": 1e-3, "tokens_per_second": 5.0, "grad_norm": 0.5}


def test_a_log_gets_plain_lines_at_the_interval_and_at_the_end(capsys) -> None:  # type: ignore[no-untyped-def]
    progress = ProgressReport(11, 1, 5, visible=True)
    for step in range(1, 12):
        progress.step({**RECORD, "step": step})
    progress.say("[brackets] stay")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["5/11", "10/11", "11/11"]
    assert "loss 1.0000" in lines[0]
    assert lines[3] == "[brackets] stay"


def test_a_terminal_gets_a_bar(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    progress = ProgressReport(20, 1, 5, visible=True)
    progress.step(RECORD)
    progress.close()
    assert "10/20" in capsys.readouterr().err


def test_other_ranks_are_silent(capsys) -> None:  # type: ignore[no-untyped-def]
    progress = ProgressReport(20, 1, 5, visible=False)
    progress.step(RECORD)
    progress.say("x")
    progress.close()
    assert capsys.readouterr().err == ""


def show_a_step(_world: object) -> None:
    """A rank that reports one step, and its terminal's width."""
    progress = ProgressReport(20, 1, 5, visible=True)
    progress.step(RECORD)
    progress.say(f"width {progress.console.width}")
    progress.close()


def test_a_rank_under_mpirun_finds_the_launchers_terminal(tmp_path: Path) -> None:
    """mpirun puts a pipe between a rank and the terminal; here the terminal is a pseudo-terminal of 91 columns."""
    program = tmp_path / "rank.py"
    program.write_text("from tests.training.test_metrics import show_a_step\nshow_a_step(None)\n")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 91, 0, 0))
    job = subprocess.Popen(
        [*mpirun(), "-n", "1", sys.executable, str(program)],
        env=rank_environment({"TERM": "xterm"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # a pseudo-terminal whose other end is closed gives EIO
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert job.wait(timeout=60) == 0
    assert "━" in shown.decode()
    assert "width 91" in shown.decode()
