"""One rank fails, dies, stops, hangs or leaves: all ranks end, with a code that is not 0 and a line that says why."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mpi import ROOT, launch, mpirun, rank_environment

PROGRAM = str(Path(__file__).with_name("_fault.py"))


def run(way: str, timeout_s: float = 600.0, nranks: int = 2) -> subprocess.CompletedProcess[str]:
    """The job's end. With a deadline of 600 s inside, only the fault itself can have ended it before 150 s."""
    return launch([sys.executable, PROGRAM, way, str(timeout_s)], nranks, timeout=150)


@pytest.mark.parametrize(
    ("way", "code", "pattern"),
    [
        ("raise", 1, r"\[rank 1\] ValueError: boom"),
        ("kill", 137, r"rank 1\b.*(?:signal 9|died)|rank 1 with PID"),
        ("exit", 3, None),
        ("leave", 1, r"allreduce\(float32\[100\]\) #2 of group '0' \(ranks 0-1\) cannot end: rank 1 has left"),
        ("caught", 0, None),
    ],
)
def test_every_way_to_leave_ends_the_job(way, code, pattern):
    before = set(os.listdir("/dev/shm"))
    done = run(way)
    assert done.returncode == code, done.stderr
    assert ("done 0" in done.stdout) == (way == "caught")
    if pattern is not None:
        assert re.search(pattern, done.stderr, re.DOTALL), done.stderr
    assert not abandoned(before)


def abandoned(before: set[str]) -> set[str]:
    """What is new in /dev/shm and nobody maps, now and 2 s later: other jobs beside this test map theirs at once."""
    unmapped: list[set[str]] = []
    for pause in (0.5, 2.0):
        time.sleep(pause)
        names = {name for name in set(os.listdir("/dev/shm")) - before if "_segment." in name or "pyjpllm" in name}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    maps = (entry / "maps").read_text()
                    names = {name for name in names if name not in maps}
        unmapped.append(names)
    return unmapped[0] & unmapped[1]


@pytest.mark.parametrize(
    ("way", "state", "what"),
    [
        ("stop", "stopped", r"allreduce\(float32\[100\]\) #2 of group '0' \(ranks 0-2\)"),
        ("hang", "alive", r"allreduce\(float32\[100\]\) #2 of group '0' \(ranks 0-2\)"),
    ],
)
def test_the_watchdog_names_the_collective_and_the_ranks(way, state, what):
    done = run(way, timeout_s=5.0, nranks=3)
    assert done.returncode == 124, done.stderr
    line = next(line for line in done.stderr.splitlines() if "is not done after" in line)
    assert re.search(
        what + r" is not done after \d+ s: waiting: (0|2|0, 2); missing: .*rank 1 \(pid \d+, " + state, line
    ), line
    assert "at #1 of this group" in line


def test_the_watchdog_names_a_message():
    done = run("message", timeout_s=5.0)
    assert done.returncode == 124, done.stderr
    assert re.search(
        r"recv from rank 1, tag 7, of \(float32\[100\]\) of group '0' .*rank 1 \(pid \d+, alive", done.stderr
    )


def test_ranks_of_a_dead_launcher_end_and_clean_up():
    """mpirun killed with SIGKILL leaves its ranks as orphans and their segments in /dev/shm."""
    command = [*mpirun(), "-n", "2", sys.executable, PROGRAM, "hang", "600"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=rank_environment(), cwd=ROOT
    ) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline().split()[2]) for _ in range(2)]
        maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids)
        mapped = set(re.findall(r"/dev/shm/\S+_segment\.\S+", maps))
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 30
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not any(alive(pid) for pid in pids)
    assert mapped
    assert not [name for name in mapped if Path(name).exists()]


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
