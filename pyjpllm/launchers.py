"""Which launcher started this process, and as which rank of how many: from the environment, without torch or MPI."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# One row a launcher: name, rank, size, local rank, local size, job id. The first row whose rank is set wins.
# Sources: Open MPI 5.0 "ompi environment variables"; MPICH/Intel Hydra and MVAPICH user guides; Fugaku's job
# operation manual (PMIX_RANK, PLE_RANK_ON_NODE, PJM_MPI_PROC); Slurm's srun manual; torchrun's documentation.
VARIABLES: tuple[tuple[str, str, str, str, str, str], ...] = (
    (
        "openmpi",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "PMIX_NAMESPACE",
    ),
    (
        "mvapich",
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
        "",
    ),
    ("hydra", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "PMI_JOBID"),
    ("fujitsu", "PMIX_RANK", "PJM_MPI_PROC", "PLE_RANK_ON_NODE", "", "PJM_JOBID"),
    ("slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "", "SLURM_JOB_ID"),
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"),
)


@dataclass(frozen=True)
class Launch:
    """What the launcher says about this process. ``size`` is 0 when only MPI itself knows it."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    job: str


def detect(environ: Mapping[str, str] | None = None) -> Launch | None:
    """The launch this process is part of, or None for a plain ``python``.

    Slurm counts only inside ``srun`` with more than one task: a batch script has SLURM_PROCID as well.
    """
    env = os.environ if environ is None else environ
    for launcher, rank, size, local_rank, local_size, job in VARIABLES:
        if rank not in env:
            continue
        if launcher == "torchrun" and size not in env:
            continue
        if launcher == "slurm" and _integer(env, size, 1) < 2:
            continue
        world_rank = _integer(env, rank, 0)
        world_size = _integer(env, size, 0)
        per_node = _integer(env, local_size, 0)
        if launcher == "slurm":
            per_node = _slurm_tasks_here(env)
        step = "." + env["SLURM_STEP_ID"] if launcher == "slurm" and "SLURM_STEP_ID" in env else ""
        return Launch(
            launcher=launcher,
            rank=world_rank,
            size=world_size,
            local_rank=_integer(env, local_rank, 0),
            local_size=per_node,
            job=re.sub(r"[^A-Za-z0-9.@_-]", "_", env.get(job, "")) + step,
        )
    return None


def _integer(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    return int(text) if re.fullmatch(r"\d+", text) else default


def _slurm_tasks_here(env: Mapping[str, str]) -> int:
    """Tasks on this node from SLURM_STEP_TASKS_PER_NODE, e.g. ``2(x3),1``."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", env.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = _integer(env, "SLURM_NODEID", 0)
    return counts[node] if node < len(counts) else 0
