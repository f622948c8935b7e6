"""Wall time of one side's step on some cores, in a process of its own: ``python -m pyjpllm.bench.scaling ...``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

import torch

from pyjpllm.bench.memory import pack, unpack
from pyjpllm.bench.sides import Work, make_side
from pyjpllm.errors import UserError


def wall_seconds(
    side: str, work: Work, cores: Sequence[int], threads: int, *, repeats: int, turns: int = 2
) -> dict[int, float]:
    """The least wall time of a step on one of ``cores`` and on ``threads`` of them.

    Each is a process of its own, by turns: the size of torch's team is fixed when the first one starts. UserError
    where there are fewer cores.
    """
    if threads > len(cores):
        raise UserError(f"--threads {threads}: this process may run on {len(cores)} core{'s' * (len(cores) > 1)}")
    best: dict[int, float] = {}
    for _ in range(turns):
        for count in (1, threads):
            took = _one(side, work, cores[-count:], repeats)
            best[count] = min(took, best.get(count, took))
    return best


def _one(side: str, work: Work, cores: Sequence[int], repeats: int) -> float:
    numbers = ",".join(map(str, cores))
    command = [sys.executable, "-m", "pyjpllm.bench.scaling", side, pack(work), numbers, str(repeats)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(cores))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:4])} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def main(side: str, work: str, cores: str, repeats: str) -> None:
    """Print the seconds."""
    mine = [int(core) for core in cores.split(",")]
    os.sched_setaffinity(0, mine)
    torch.set_num_threads(len(mine))
    subject = make_side(side, unpack(work))
    subject.step()
    times = []
    for _ in range(int(repeats)):
        start = time.perf_counter()
        subject.step()
        times.append(time.perf_counter() - start)
    print(min(times))


if __name__ == "__main__":
    main(*sys.argv[1:])
