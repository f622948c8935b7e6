"""`jpllm doctor`: every probe on made-up machines, and once on this one."""

from __future__ import annotations

import builtins
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from pyjpllm.bench import doctor
from pyjpllm.bench.doctor import Diagnosis
from pyjpllm.cli import exits
from pyjpllm.cli.app import run

Usage = namedtuple("Usage", "total used free")
A64FX = "processor\t: 0\nFeatures\t: fp asimd evtstrm sve\nCPU part\t: 0x001\n"
XEON = "model name\t: Some CPU\nflags\t\t: fpu avx2 fma avx512f\n\nmodel name\t: Some CPU\nflags\t\t: fpu avx2\n"


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    before = {path.name for path in Path("/dev/shm").glob("sm_segment.*")}
    code = run(["doctor", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert code == (0 if answer["usable"] else 1)
    assert answer["usable"], answer["findings"]
    assert answer["backends"]["torch"] == "all operations"
    assert answer["cpu"]["usable"] == len(os.sched_getaffinity(0))
    assert answer["mpi"]["thread_level"] in ("serialized", "multiple")
    assert any("OpenMP" in runtime for runtime in answer["threads"]["runtimes"])
    mine = [f for f in Path("/dev/shm").glob("sm_segment.*") if f.name not in before and f.stat().st_uid == os.getuid()]
    assert not [f for f in mine if str(f) not in doctor.mapped(Path("/dev/shm"))] or answer["mpi"]["library"]


def test_what_is_wrong_is_printed_and_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Diagnosis({"cpu": {"model": "x", "flag": True, "list": ["a", "b"], "none": []}})
    found.warn("it is slow", "buy another")
    found.error("it is broken", "repair it")
    monkeypatch.setattr(doctor, "diagnose", lambda **_: found)
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "warning: it is slow\n  remedy: buy another" in out
    assert "error: it is broken\n  remedy: repair it" in out
    assert "not usable as it is; 2 findings" in out
    assert "  flag   yes" in out
    monkeypatch.setattr(exits, "rank", lambda: 1)
    assert run(["doctor"]) == 0
    assert capsys.readouterr().out == ""


def test_a_probe_without_its_file_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any) -> None:
        raise FileNotFoundError(2, "No such file", "/proc/nothing")

    for name in [n for n in vars(doctor) if n.startswith("examine_")]:
        monkeypatch.setattr(doctor, name, fail)
    found = doctor.diagnose(folder=tmp_path)
    assert found.usable
    assert found.facts["not found out"] == {"/proc/nothing": "No such file"}


def test_processors(tmp_path: Path) -> None:
    found = Diagnosis()
    root = tree(tmp_path / "a", {"proc/cpuinfo": XEON, "sys/devices/system/node/node0/cpulist": "0-3\n"})
    doctor.examine_cpu(found, root)
    assert found.facts["cpu"]["model"] == "Some CPU"
    assert found.facts["cpu"]["instructions"] == "avx2 fma avx512f"
    assert found.facts["cpu"]["numa"] == "node0: 0-3"
    doctor.examine_cpu(found, tree(tmp_path / "b", {"proc/cpuinfo": A64FX}))
    assert found.facts["cpu"]["model"] == "A64FX"
    assert found.facts["cpu"]["instructions"] == "asimd sve"
    assert found.facts["cpu"]["quota"] == "none"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 1.5),
    ],
)
def test_limits_on_processor_time(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    root = tree(tmp_path, {**files, "proc/cpuinfo": XEON})
    assert doctor.cpu_quota(root) == quota
    found = Diagnosis()
    doctor.examine_cpu(found, root)
    assert len(found.findings) == (quota is not None and quota < len(os.sched_getaffinity(0)))


def test_memory(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 33554432 kB\nMemAvailable: 1048576 kB\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n",
        "sys/fs/cgroup/memory.max": str(8 << 30),
    }
    found = Diagnosis()
    doctor.examine_memory(found, tree(tmp_path, files))
    assert found.facts["memory"]["total"] == "32.0 GiB"
    assert found.facts["memory"]["limit"] == "8.0 GiB"
    assert [f.level for f in found.findings] == ["warning", "warning"]
    assert "huge pages are off" in found.findings[1].what
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert doctor.memory_limit(tmp_path) is None


def test_threads_against_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)

    def warnings(environ: dict[str, str], ranks: int) -> list[str]:
        found = Diagnosis()
        doctor.examine_threads(found, environ, ranks, "")
        return [f"{f.what} | {f.remedy}" for f in found.findings]

    assert warnings({}, 4) == []
    assert warnings({"OMP_NUM_THREADS": "2"}, 4) == []
    (line,) = warnings({"OMP_NUM_THREADS": "8"}, 4)
    assert "OMP_NUM_THREADS=8 with 4 rank(s) here, but each has 2 core(s) | set OMP_NUM_THREADS=2" in line
    (line,) = warnings({"OMP_NUM_THREADS": "all"}, 4)
    assert "is no number of threads | set it to 2" in line
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    (line,) = warnings({"OMP_NUM_THREADS": "2"}, 4)
    assert "each has 1 core(s)" in line
    assert "--bind-to none" in line


def test_two_openmp_runtimes() -> None:
    maps = (
        "7f00-7f01 r-xp 00000000 08:01 1   /venv/torch/lib/libgomp-a34b3233.so.1\n"
        "7f01-7f02 r--p 00000000 08:01 1   /venv/torch/lib/libgomp-a34b3233.so.1\n"
        "7f03-7f04 r-xp 00000000 08:01 2   /usr/lib/libomp5.so.5\n"
        "7f03-7f04 r-xp 00000000 08:01 2   /usr/lib/libiomp5.so\n"
        "7f05-7f06 r-xp 00000000 08:01 3   /venv/numpy.libs/libscipy_openblas64_-1.so\n"
        "7f07-7f08 rw-p 00000000 00:00 0   [heap]\n"
    )
    kinds = [kind for kind, _ in doctor.runtimes(maps)]
    assert kinds == ["GNU OpenMP", "LLVM OpenMP", "Intel OpenMP", "OpenBLAS"]
    found = Diagnosis()
    doctor.examine_threads(found, {}, 1, maps)
    assert found.findings[0].what.startswith("3 OpenMP runtimes are loaded")


def test_ranges_and_sizes() -> None:
    assert doctor.ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert doctor.ranges([]) == ""
    assert [doctor.size(n) for n in (0, 5 << 20, 3 << 40)] == ["0 B", "5 MiB", "3.0 TiB"]


def test_software_that_is_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "safetensors" else "1")
    monkeypatch.setattr(doctor.platform, "libc_ver", lambda: ("glibc", "2.17"))
    found = Diagnosis()
    doctor.examine_software(found)
    assert [f.what.split(",")[0] for f in found.findings] == [
        *("glibc 2.17 is older than 2.28", "the package safetensors is not installed")
    ]
    assert not found.usable


def test_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch":
            raise ImportError("libtorch.so: cannot open\nmore")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    found = Diagnosis()
    doctor.examine_torch(found)
    assert found.findings[0].what == "torch cannot be imported: libtorch.so: cannot open"


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/dev/nvidia0")
    found = Diagnosis()
    doctor.examine_torch(found)
    assert "there is an NVIDIA GPU" in found.findings[0].what
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda i: f"GPU {i}")
    found = Diagnosis()
    doctor.examine_torch(found)
    assert found.facts["torch"]["gpus"] == "GPU 0, GPU 1"
    assert not found.findings


class Native:
    """Stands for the compiled kernels."""

    @staticmethod
    def build_info() -> dict[str, Any]:
        return {
            "isas_built": ["avx2", "scalar"],
            "compiler": "GNU 12",
            "default_threads": 2,
            "thread_runtime": "own pool",
        }

    @staticmethod
    def isas() -> list[str]:
        return ["avx2", "scalar"]

    @staticmethod
    def isa() -> str:
        return "avx2"


def test_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: Native)
    monkeypatch.setenv("JPLLM_ISA", "avx2")
    found = Diagnosis()
    doctor.examine_kernels(found)
    assert found.facts["kernels"]["chosen"] == "avx2 (by JPLLM_ISA)"
    assert not found.findings

    def absent(name: str) -> None:
        raise ImportError("JPLLM_ISA: this CPU has no 'sve'")

    monkeypatch.setattr(importlib, "import_module", absent)
    found = Diagnosis()
    doctor.examine_kernels(found)
    assert "unset JPLLM_ISA" in found.findings[0].remedy
    monkeypatch.delenv("JPLLM_ISA")
    found = Diagnosis()
    doctor.examine_kernels(found)
    assert "pip install ." in found.findings[0].remedy
    assert found.usable


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyjpllm.ops import registry

    monkeypatch.setattr(registry, "unavailable_reason", lambda name: "not built" if name == "native" else None)
    monkeypatch.setattr(registry, "missing_operations", lambda name: ("rotary",) if name == "reference" else ())
    found = Diagnosis()
    doctor.examine_backends(found)
    assert found.facts["backends"] == {
        "torch": "all operations",
        "native": "cannot be used: not built",
        "reference": "all operations but rotary (computed by torch)",
    }


def mpi(monkeypatch: pytest.MonkeyPatch, outcome: Any, *, launcher: bool = True) -> Diagnosis:
    def probe(*_: Any, **__: Any) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return subprocess.CompletedProcess([], *outcome)

    monkeypatch.setattr(subprocess, "run", probe)
    monkeypatch.setattr(doctor, "find_program", lambda name: "/usr/bin/mpirun" if launcher else None)
    found = Diagnosis()
    doctor.examine_mpi(found, {"OMPI_COMM_WORLD_RANK": "0"})
    return found


def test_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    good = json.dumps({"library": "Some MPI", "standard": "4.0", "thread_level": "serialized"})
    found = mpi(monkeypatch, (0, f"noise\n{good}\n", ""))
    assert found.facts["mpi"]["library"] == "Some MPI"
    assert not found.findings
    assert "one rank only" in mpi(monkeypatch, (0, good, ""), launcher=False).findings[0].what
    low = good.replace("serialized", "funneled")
    assert not mpi(monkeypatch, (0, low, "")).usable
    broken = mpi(monkeypatch, (1, "", "Traceback\nImportError: libmpi.so"))
    assert "libmpi.so" in broken.findings[0].what
    assert not broken.usable
    assert "60 s" in mpi(monkeypatch, subprocess.TimeoutExpired("x", 60)).findings[0].what
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    found = mpi(monkeypatch, (0, good, ""))
    assert found.usable
    assert "mpi4py is not installed" in found.findings[0].what


def test_programs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.find_program(Path(sys.executable).name) == sys.executable
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert doctor.find_program("srun") == "/usr/bin/srun"


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 64 << 20))
    (tmp_path / "sm_segment.node.0.1234.0").write_bytes(b"x" * 100)
    (tmp_path / "other").touch()
    found = Diagnosis()
    doctor.examine_shared_memory(found, tmp_path, 48)
    assert [f.what.split(";")[0] for f in found.findings] == [
        f"{tmp_path} has 64 MiB free",
        f"killed MPI jobs left 1 file(s) in {tmp_path} (100 B)",
    ]


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 5 << 20))
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = Diagnosis()
    doctor.examine_disk(found, tmp_path)
    assert [f.what for f in found.findings] == [f"{tmp_path} has only 5 MiB free", f"{tmp_path} is not writable"]
