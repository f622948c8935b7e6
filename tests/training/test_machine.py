"""Threads of a rank, and the peaks that MFU is a share of."""

from __future__ import annotations

import json
import os

import pytest
import torch

from pyjpllm.distributed import World
from pyjpllm.training import machine

CPU = torch.device("cpu")


def test_omp_num_threads_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine.threads_per_rank(World(0, 8, 0, 8, "mpi4py")) == 3


@pytest.mark.parametrize(
    ("mine", "online", "local", "threads"), [(12, 48, 4, 12), (48, 48, 4, 12), (2, 2, 4, 1), (48, 48, 1, 48)]
)
def test_a_rank_takes_its_own_cores_or_its_share(
    monkeypatch: pytest.MonkeyPatch, mine: int, online: int, local: int, threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(mine)))
    monkeypatch.setattr(os, "cpu_count", lambda: online)
    assert machine.threads_per_rank(World(0, local, 0, local, "mpi4py")) == threads


def test_the_peak_of_a_cpu_is_measured_and_counts_threads_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyjpllm import _native

    monkeypatch.setattr(_native, "fma_peak", lambda _seconds: 50e9)
    assert machine.peak_flops(CPU, "fp32", "exact", 4, 12) == 50e9 * 48
    assert machine.peak_flops(torch.device("meta"), "fp32", "exact", 4, 12) is None


@pytest.mark.parametrize(("isa", "factor"), [("sve512", 2), ("sve256", 2), ("avx512bf16", 1), ("scalar", 1)])
def test_the_peak_of_fp16_sums_is_twice_fp32s_where_they_are_computed(
    monkeypatch: pytest.MonkeyPatch, isa: str, factor: int
) -> None:
    from pyjpllm import _native

    monkeypatch.setattr(_native, "fma_peak", lambda _seconds: 50e9)
    monkeypatch.setattr(_native, "isa", lambda: isa)
    assert machine.peak_flops(CPU, "fp16", "fp16-chunk", 4, 12) == factor * 50e9 * 48
    assert machine.peak_flops(CPU, "fp32", "int16", 4, 12) == factor * 50e9 * 48
    assert machine.peak_flops(CPU, "fp16", "exact", 4, 12) == 50e9 * 48


def test_the_peak_of_a_gpu_is_the_data_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    assert machine.peak_flops(gpu, "bf16", "exact", 2, 1) == 2 * 989e12
    assert machine.peak_flops(gpu, "fp32", "exact", 1, 1) == 67e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Something Else")
    assert machine.peak_flops(gpu, "bf16", "exact", 1, 1) is None


def test_the_record_of_the_machine_is_json() -> None:
    found = machine.describe(World(0, 2, 0, 2, "mpi4py"), CPU, 3, None)
    assert json.loads(json.dumps(found)) == found
    assert found["collectives"] == "mpi4py"
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__


def test_denormals_count_as_numbers_again_afterwards() -> None:
    tiny = torch.tensor([1e-40])
    with machine.flushing_denormals():
        assert (tiny * 1.0).item() == 0
    assert (tiny * 1.0).item() != 0
