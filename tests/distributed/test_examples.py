"""The examples and the benchmark run as their first lines say."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.mpi import ROOT, launch, rank_environment


def losses(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"loss ([\d.]+) on 2 ranks", text)]


def test_examples_learn(tmp_path):
    done = launch([sys.executable, str(ROOT / "examples/ddp_over_mpi.py")], 2)
    assert done.returncode == 0, done.stderr
    assert losses(done.stdout)[-1] < losses(done.stdout)[0]
    folder = tmp_path / "checkpoint"
    done = launch([sys.executable, str(ROOT / "examples/fsdp2_over_mpi.py"), "--checkpoint", str(folder)], 2)
    assert done.returncode == 0, done.stderr
    assert losses(done.stdout)[-1] < losses(done.stdout)[0]
    assert (folder / ".metadata").exists()


def test_the_benchmark_asks_for_ranks():
    command = [sys.executable, str(ROOT / "benchmarks/collectives.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=rank_environment(), check=False)
    assert done.returncode == 1
    assert "mpirun -n 2" in done.stderr
