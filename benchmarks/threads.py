"""Compares the two ways to get a team of threads (docs/kernels.md): `python benchmarks/threads.py [--json]`.

By the wall clock, on all CPUs of the CPU set: it needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import torch

from pyjpllm.ops import native

SIZES = (128, 256, 512, 1024)


def turns_with_torch(size: int) -> float:
    """Milliseconds of one turn, the least of 30: a product by torch, one by us, an elementwise pass by each."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    calls = max(1, 2048 // size)
    x, w = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(31):  # the first warms caches
        start = time.perf_counter()
        for _ in range(calls):
            y = native.linear(torch.mm(x, w), w)
            native.swiglu(y.mul_(0.01), y)
        times.append(time.perf_counter() - start)
    return min(times[1:]) / calls * 1e3


def measure(size: int) -> dict[str, float]:
    """Both ways, each in a process of its own, in turn, the best of three; in milliseconds."""
    row: dict[str, float] = {"size": size}
    for way, setting in (("openmp ms", ""), ("own pool ms", "own")) * 3:
        environment = {**os.environ, "JPLLM_THREADS": setting}
        command = [sys.executable, __file__, "--turn", str(size)]
        took = float(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
        row[way] = min(took, row.get(way, took))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turn", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    if arguments.turn is not None:
        print(turns_with_torch(arguments.turn))
        return
    for size in SIZES:
        row = {key: round(value, 2) for key, value in measure(size).items()}
        print(json.dumps(row) if arguments.json else "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
