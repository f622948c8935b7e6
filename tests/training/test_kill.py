"""SIGKILL at any moment costs at most the steps since the last checkpoint, and not one bit of the result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pyjpllm.config import to_toml
from pyjpllm.training import complete_steps, latest, train
from pyjpllm.training.folders import step_folder, steps_in
from tests.mpi import launch, mpirun, rank_environment
from tests.training.killer import KEPT, OVERRIDES
from tests.training.small import data_folder, small_config
from tests.training.test_trainer import digest, records

KILLS = 20
KILLS_OF_TWO = 12


def test_a_run_killed_at_twenty_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    train(small_config(data_folder(), *OVERRIDES), tmp_path / "unbroken")
    seed = 20260 + random.randrange(1000)
    lines = kill(tmp_path / "run", seed, KILLS)
    assert digest(tmp_path / "run") == digest(tmp_path / "unbroken"), f"seed {seed}: {lines}"
    steps = records(tmp_path / "run")
    assert [r["step"] for r in steps] == list(range(1, 91))
    assert [r["loss"] for r in steps] == [r["loss"] for r in records(tmp_path / "unbroken")]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_two_ranks_killed_while_checkpoints_are_written_and_copied_lose_none(tmp_path: Path) -> None:
    """After each kill every checkpoint that was complete is whole, in both places; the end has the same bits."""
    seed = 50260 + random.randrange(1000)
    lines = kill(tmp_path / "run", seed, KILLS_OF_TWO, str(tmp_path / "copies"))
    assert [line["kill"] for line in lines if "kill" in line] == list(range(1, KILLS_OF_TWO + 1))
    assert digest(tmp_path / "run") == digest(tmp_path / "run-whole"), f"seed {seed}: {lines}"
    steps = range(60 - KEPT + 1, 61)
    assert complete_steps(tmp_path / "run") == steps_in(tmp_path / "copies") == list(steps)
    for step in steps:
        ours, theirs = step_folder(tmp_path / "run", step), tmp_path / "copies" / f"step-{step:08d}"
        assert {p.name: p.read_bytes() for p in ours.iterdir()} == {p.name: p.read_bytes() for p in theirs.iterdir()}
    assert not list((tmp_path / "copies").glob(".step*"))


def kill(run: Path, seed: int, kills: int, *copies: str) -> list[dict[str, Any]]:
    """What the killer says; the run is finished then."""
    program = [sys.executable, "-m", "tests.training.killer", str(data_folder()), str(run), str(seed), str(kills)]
    killer = subprocess.run([*program, *copies], capture_output=True, text=True, env=rank_environment(), timeout=400)
    lines = [json.loads(line) for line in killer.stdout.splitlines()]
    assert killer.returncode == 0, f"seed {seed}\n{killer.stdout}\n{killer.stderr[-3000:]}"
    assert lines[-1] == {"kills": kills}, f"seed {seed}: {lines}"
    return lines


def test_a_killed_rank_of_two_ends_the_job_and_the_next_one_goes_on(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    overrides = ("parallel.tensor=2", "train.steps=40", "checkpoint.interval=2", "data.valid=[]")
    config.write_text(to_toml(small_config(data_folder(), *overrides)), encoding="utf-8")
    program = [sys.executable, "-m", "pyjpllm", "train", str(config), "--run"]
    rng = random.Random(7)
    for _ in range(2):
        start = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) if latest(tmp_path / "run") else 0
        job = subprocess.Popen(
            [*mpirun(), "-n", "2", *program, str(tmp_path / "run")],
            env=rank_environment(),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for_step(tmp_path / "run" / "metrics.jsonl", start + 4, job)
        time.sleep(rng.random() * 0.1)
        os.kill(rng.choice(ranks_of(job.pid)), signal.SIGKILL)
        assert job.wait(timeout=30) != 0
    done = launch([*program, str(tmp_path / "run")], 2, timeout=120)
    assert done.returncode == 0, done.stderr
    whole = launch([*program, str(tmp_path / "whole")], 2, timeout=120)
    assert whole.returncode == 0, whole.stderr
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_sigusr1_to_mpirun_reaches_the_ranks_and_they_save(tmp_path: Path) -> None:
    """The signal that Open MPI's mpirun hands on; for SIGTERM it kills the ranks instead."""
    config = tmp_path / "config.toml"
    overrides = ("train.steps=5000", "checkpoint.interval=0", "data.valid=[]")
    config.write_text(to_toml(small_config(data_folder(), *overrides)), encoding="utf-8")
    job = subprocess.Popen(
        [*mpirun(), "-n", "2", sys.executable, "-m", "pyjpllm", "train", str(config), "--run", str(tmp_path / "run")],
        env=rank_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        wait_for_step(tmp_path / "run" / "metrics.jsonl", 3, job)
        job.send_signal(signal.SIGUSR1)
        said, _ = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 1
    last = records(tmp_path / "run")[-1]["step"]
    assert complete_steps(tmp_path / "run") == [last]
    assert f"SIGUSR1: stopped after step {last} of 5000, checkpoint saved" in said


def wait_for_step(metrics: Path, step: int, job: subprocess.Popen[Any]) -> None:
    """Until the run has made ``step``."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and job.poll() is None:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"the run did not come to step {step}")


def ranks_of(pid: int) -> list[int]:
    """The Python processes below ``pid``."""
    below = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == pid and b"pyjpllm" in (entry / "cmdline").read_bytes():
                    below.append(int(entry.name))
            except (OSError, IndexError):
                continue
    assert below
    return below
