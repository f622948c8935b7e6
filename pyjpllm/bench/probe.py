"""Measuring on one core: pinning, CPU time, the core's multiply-add peak, peak memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pyjpllm.errors import UserError

STREAM_MEBIBYTES = 128
"""Of each array of the bandwidth probe: far more than a core's share of any cache."""


def pin(core: int | None = None) -> int:
    """Keep this process on one core and torch on one thread; the core's number.

    Call it before other threads start: they inherit the core. None takes the last core this process may run on (the
    first ones get the system's interrupts). UserError for a core that is not ours.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if core is not None and core not in allowed:
        raise UserError(f"--core {core} is not among the cores of this process: {', '.join(map(str, allowed))}")
    chosen = allowed[-1] if core is None else core
    os.sched_setaffinity(0, {chosen})
    torch.set_num_threads(1)
    return chosen


def set_threads(threads: int) -> None:
    """Let torch and our kernels use so many threads. UserError where this process has fewer cores."""
    cores = len(os.sched_getaffinity(0))
    if threads > cores:
        raise UserError(f"--threads {threads}: this process may run on {cores} core{'s' * (cores > 1)}")
    torch.set_num_threads(threads)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Seconds of CPU time that ``work`` takes: what others do on the machine counts little in it."""
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass
class Peak:
    """The multiply-add rate of the core, the best seen so far: clocks differ from minute to minute."""

    flops: float = 0.0
    how: str = ""
    dtype: str = "fp32"
    """``bf16`` takes the rate of BF16 dot products where the core has them."""

    def measure(self) -> None:
        """Measure once more, for about a tenth of a second."""
        try:
            from pyjpllm import _native
        except ImportError:
            self.flops, self.how = max(self.flops, _matmul_flops()), "the best of FP32 matrix products of 1024^3"
            return
        found, self.how = _native.fma_peak(0.1, 1), "FP32 multiply-adds in a register loop"
        if self.dtype == "bf16":
            found, has_dot = _native.dot_peak(0.1, 1)
            self.how = "BF16 dot products in a register loop" if has_dot else f"{self.how}: no BF16 dot product here"
        self.flops = max(self.flops, found)


def _matmul_flops() -> float:
    size = 1024
    a, b, out = (torch.ones(size, size) for _ in range(3))
    best = min(cpu_seconds(lambda: torch.mm(a, b, out=out)) for _ in range(3))
    return 2.0 * size**3 / best


@dataclass
class Peaks:
    """What the instruction set in use reaches at most on ``threads`` threads: the best seen so far in this run."""

    threads: int = 1
    fma: float = 0.0
    """FP32 multiply-adds, flop/s."""
    dot: float = 0.0
    """BF16 products summed in FP32, flop/s; those of ``fma`` where BF16 is converted."""
    has_dot: bool = False
    """Whether ``dot`` is that of an instruction for BF16."""
    streams: dict[str, float] = field(default_factory=dict)
    """Bytes a second by kind, such as ``triad`` and ``triad past caches``."""

    def measure_flops(self, seconds: float) -> None:
        """The arithmetic peaks once more, for some ``seconds`` each."""
        from pyjpllm import _native

        self.fma = max(self.fma, _native.fma_peak(seconds, self.threads))
        dot, self.has_dot = _native.dot_peak(seconds, self.threads) if self.dot == 0 or self.has_dot else (0.0, False)
        self.dot = max(self.dot, dot) if self.has_dot else self.fma

    def measure(self, seconds: float) -> None:
        """Everything once more."""
        from pyjpllm import _native

        self.measure_flops(seconds)
        for past in (False, True) if _native.stream_has_past_caches() else (False,):
            for kind in ("copy", "triad"):
                name = f"{kind} past caches" if past else kind
                rate = _native.stream(kind, past, STREAM_MEBIBYTES, seconds, self.threads)
                self.streams[name] = max(rate, self.streams.get(name, 0.0))

    @property
    def bandwidth(self) -> float:
        """Bytes a second: the best of the streams."""
        return max(self.streams.values())

    def flops(self, dtype: str) -> float:
        """The peak for a type: FP16 is converted everywhere."""
        return self.dot if dtype == "bf16" else self.fma

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**self.__dict__, "bandwidth": self.bandwidth}


def resident_bytes() -> tuple[int, int]:
    """(memory of this process now, the most it has had), from /proc/self/status."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    now, most = (int(fields[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return now, most


def processor() -> str:
    """The processor in general words: its vector instructions, not its name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return sys.platform
    words = text.split()
    for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("sve", "SVE"), ("asimd", "NEON")):
        if flag in words:
            return f"one core with {name}"
    return "one core"
