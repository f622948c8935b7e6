"""The peak that MFU is a share of: measured on a CPU, from a table of data sheets on a GPU."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import torch

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


def peak_flops(device: torch.device, dtype: str, world_size: int, threads: int) -> float | None:
    """Peak FLOP/s of all ranks together, or None when it is not known.

    On a CPU: the FP32 multiply-add rate that one core reaches in a register loop right now, times all threads (also
    for BF16, so that the two can be compared). On a GPU: the data sheet's figure for the type.
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
    return float(_native.fma_peak(0.05)) * threads * world_size


@contextlib.contextmanager
def flushing_denormals() -> Iterator[None]:
    """Denormal numbers count as zero inside this block: they cost ~90 cycles each on A64FX, and carry nothing here."""
    already = sys.float_info.min / float(2) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)
