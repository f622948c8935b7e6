"""Measuring on one core: pinning, CPU time, the core's multiply-add peak, peak memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pyjpllm.errors import UserError


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

    def measure(self) -> None:
        """Measure once more, for about a tenth of a second."""
        try:
            from pyjpllm import _native
        except ImportError:
            self.flops, self.how = max(self.flops, _matmul_flops()), "the best of FP32 matrix products of 1024^3"
            return
        self.flops, self.how = max(self.flops, _native.fma_peak(0.1, 1)), "FP32 multiply-adds in a register loop"


def _matmul_flops() -> float:
    size = 1024
    a, b, out = (torch.ones(size, size) for _ in range(3))
    best = min(cpu_seconds(lambda: torch.mm(a, b, out=out)) for _ in range(3))
    return 2.0 * size**3 / best


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
