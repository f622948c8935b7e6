"""Measures the kernels beside torch on this machine: `python benchmarks/kernels.py gemm|ops|threads [--json]`.

`gemm` and `ops` run on one thread and count CPU time (the best of several runs), so that a busy machine changes them
little; both sides alternate in one process. `threads` compares the two ways to get a team (docs/kernels.md) on all CPUs
of the CPU set by the wall clock and needs a quiet machine.
Letters: M, N, K of a product; N tokens, D width, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pyjpllm import _native
from pyjpllm.ops import native, torch_backend

SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (2048, 1408, 512), (2048, 5120, 1280), (16, 4096, 1024))


def best(seconds: Callable[[], float], function: Callable[[], object], runs: int) -> float:
    """The least of ``runs`` times of one call, in seconds."""
    times = []
    for _ in range(runs):
        start = seconds()
        function()
        times.append(seconds() - start)
    return min(times)


def alternate(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
    """The best CPU times of two functions that take turns."""
    pairs = [(best(time.thread_time, ours, 3), best(time.thread_time, theirs, 3)) for _ in range(rounds)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def measure_gemm() -> list[dict[str, object]]:
    """GF/s of C[M,N] = A[M,K] W[N,K]^T, ours on each instruction set and torch's."""
    rows: list[dict[str, object]] = []
    for isa in _native.isas():
        _native.set_isa(isa)
        peak = _native.fma_peak(0.3, 1) / 1e9
        for m, n, k in SHAPES:
            a_MK, w_NK = torch.randn(m, k), torch.randn(n, k)
            gf = 2 * m * n * k / 1e9
            ours, theirs = alternate(lambda: native.linear(a_MK, w_NK), lambda: torch.mm(a_MK, w_NK.t()))  # noqa: B023
            rows.append({"isa": isa, "peak": peak, "M,N,K": f"{m},{n},{k}", "native": gf / ours, "torch": gf / theirs})
    _native.set_isa("")
    return rows


def with_gradients(function: Callable[..., Tensor | tuple[Tensor, ...]], *inputs: Tensor) -> Callable[[], object]:
    """One forward and backward of ``function``."""

    def run() -> object:
        result = function(*inputs)
        outputs = result if isinstance(result, tuple) else (result,)
        return torch.autograd.grad(outputs, inputs, [torch.ones_like(y) for y in outputs])

    return run


def measure_ops() -> list[dict[str, object]]:
    """Milliseconds of forward and backward of each operation, ours and the torch backend's."""

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape).requires_grad_()

    x_ND, norm_D, weight_FD = leaf(2048, 512), leaf(512), leaf(1408, 512)
    gate_NF, up_NF, vocabulary_VD = leaf(2048, 1408), leaf(2048, 1408), leaf(32000, 512)
    targets_N = torch.randint(0, 32000, (2048,))
    buffers = [torch.rand(10_000_000) for _ in range(4)]
    numbers = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "step": 3}
    cases: dict[str, Callable[[object], Callable[[], object]]] = {
        "linear 2048x512x1408": lambda b: with_gradients(b.linear, x_ND, weight_FD),
        "rms_norm 2048x512": lambda b: with_gradients(lambda x, w: b.rms_norm(x, w, 1e-5), x_ND, norm_D),
        "swiglu 2048x1408": lambda b: with_gradients(b.swiglu, gate_NF, up_NF),
        "linear_logsumexp 2048x512x32000": lambda b: with_gradients(
            lambda h, w: b.linear_logsumexp(h, w, targets_N), x_ND, vocabulary_VD
        ),
        "adamw_step 10M": lambda b: lambda: b.adamw_step(*buffers, **numbers),
    }
    rows: list[dict[str, object]] = []
    for name, case in cases.items():
        ours, theirs = alternate(case(native), case(torch_backend), rounds=2)
        rows.append({"operation": name, "native ms": ours * 1e3, "torch ms": theirs * 1e3})
    return rows


def turns_with_torch(size: int, calls: int) -> float:
    """Milliseconds of one turn: a product by torch, one by us, an elementwise pass by each."""
    x, w = torch.randn(size, size), torch.randn(size, size)

    def turn() -> None:
        for _ in range(calls):
            y = native.linear(torch.mm(x, w), w)
            native.swiglu(y.mul_(0.01), y)

    turn()
    return best(time.perf_counter, turn, 30) / calls * 1e3


def measure_threads() -> list[dict[str, object]]:
    """Both ways to get a team, each in a process of its own, in turn, the best of three."""
    rows: list[dict[str, object]] = []
    for size in (128, 256, 512, 1024):
        row: dict[str, object] = {"size": size}
        for way, setting in (("openmp", ""), ("own pool", "own")) * 3:
            environment = {**os.environ, "JPLLM_THREADS": setting}
            command = [sys.executable, __file__, "turn", str(size)]
            took = float(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
            row[f"{way} ms"] = min(took, float(str(row.get(f"{way} ms", took))))
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gemm", "ops", "threads", "turn"])
    parser.add_argument("size", nargs="?", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    if arguments.what == "turn":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        print(turns_with_torch(arguments.size, max(1, 2048 // arguments.size)))
        return
    torch.set_num_threads(1)
    rows = {"gemm": measure_gemm, "ops": measure_ops, "threads": measure_threads}[arguments.what]()
    for row in rows:
        shown = {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}
        print(json.dumps(shown) if arguments.json else "  ".join(f"{key} {value}" for key, value in shown.items()))


if __name__ == "__main__":
    main()
