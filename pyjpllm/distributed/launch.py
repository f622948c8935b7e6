"""Who am I in this job: rank and size from the launcher's environment, and one call that starts torch.distributed.

Nothing here imports MPI before ``init("mpi4py")`` is called in a job of more than one rank.
"""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from pyjpllm.distributed.store import LazyFileStore
from pyjpllm.errors import UserError, did_you_mean
from pyjpllm.launchers import Launch as Launch
from pyjpllm.launchers import detect as detect

BACKENDS = ("mpi4py", "gloo", "nccl")


@dataclass(frozen=True)
class World:
    """The started job: ``backend`` is the name asked for, also in a world of one, where nothing is started.

    ``messages``: who moves them, in words, where that is ours to say.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    backend: str
    messages: str = ""


def job_store_path(launch: Launch) -> Path:
    """The file behind a store that all ranks of this job can open.

    One node: the temporary folder. Several nodes: the folder the job was started in, which every node sees;
    ``PYJPLLM_JOB_DIR`` names another one.
    """
    one_node = launch.local_size == launch.size and launch.size > 0
    default = tempfile.gettempdir() if one_node else os.getcwd()
    folder = Path(os.environ.get("PYJPLLM_JOB_DIR", default))
    name = launch.job or f"parent{os.getppid()}"
    if one_node:  # a job id may come back after a reboot; the launcher's start time does not
        name += f"-{_start_time(os.getppid())}"
    return folder / f".pyjpllm-{os.getuid()}-{name}.store"


def forget_store() -> None:
    """Remove the store's file if there is one: for a job that ends badly."""
    for store in LazyFileStore.alive:
        store.remove()


def _start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return "0"


_world: World | None = None
_timeout: datetime.timedelta | None = None


def init(backend: str = "mpi4py", *, timeout_s: float = 1800.0, deterministic: bool = False) -> World:
    """Start torch.distributed in this process and say who it is.

    ``backend``: "mpi4py" (CPU, under mpirun, opens no port), "gloo" (CPU) or "nccl" (one GPU a rank).
    ``timeout_s``: seconds after which an operation that has not ended is reported and the job is ended.
    ``deterministic``: sums are taken in one order for every type and size, so that the same numbers in the same number
    of ranks, on nodes alike, give the same bits (mpi4py only; 16-bit sums are always so).
    A plain ``python`` is a world of one: neither MPI nor torch.distributed is started.
    Raises ``UserError`` when the launcher and the backend do not fit.
    """
    global _world, _timeout
    if backend not in BACKENDS:
        raise UserError(f"distributed backend {backend!r} is unknown{did_you_mean(backend, BACKENDS)}")
    if _world is not None:
        if _world.backend != backend:
            raise UserError(f"distributed is already started with backend {_world.backend!r}, not {backend!r}")
        return _world
    if backend == "nccl" and not torch.cuda.is_available():
        raise UserError("distributed backend 'nccl' needs a GPU and torch sees none; use 'mpi4py' or 'gloo' on a CPU")
    if deterministic and backend != "mpi4py":
        raise UserError(f"deterministic sums need distributed backend 'mpi4py', not {backend!r}")
    launch = detect()
    if launch is None or launch.size == 1:
        _world = World(rank=0, size=1, local_rank=0, local_size=1, backend=backend)
        return _world
    _timeout = datetime.timedelta(seconds=timeout_s)
    if backend == "mpi4py":
        _world = _init_mpi4py(launch, _timeout, deterministic)
    else:
        _world = _init_stock(launch, backend, _timeout)
    return _world


def new_group(members: Sequence[int], name: str) -> dist.ProcessGroup:
    """The group of these ranks of the world, in this order, with the time limit that ``init`` was given.

    Only its members take part, whatever the size of the world. torch names a group by how many its rank has made, so
    ranks that are to make one together later must have made as many before. ``name``: for error messages.
    """
    made = dist.new_group(list(members), timeout=_timeout, use_local_synchronization=True, group_desc=name)
    assert isinstance(made, dist.ProcessGroup)
    return made


def _init_mpi4py(launch: Launch, timeout: datetime.timedelta, deterministic: bool) -> World:
    from pyjpllm.distributed import runtime

    if launch.launcher == "torchrun":
        raise UserError("distributed backend 'mpi4py' under torchrun: start with 'mpirun -n N', or choose 'gloo'")
    mpi = runtime.start(deterministic=deterministic)
    dist.init_process_group(
        "mpi4py",
        store=LazyFileStore(job_store_path(launch), mpi.size),
        rank=mpi.rank,
        world_size=mpi.size,
        timeout=timeout,
    )
    return World(
        rank=mpi.rank,
        size=mpi.size,
        local_rank=mpi.local_rank,
        local_size=mpi.local_size,
        backend="mpi4py",
        messages=str(mpi.cores),
    )


def _init_stock(launch: Launch, backend: str, timeout: datetime.timedelta) -> World:
    if launch.size == 0:
        raise UserError(f"distributed backend {backend!r}: launcher {launch.launcher!r} tells no world size")
    if backend == "nccl":
        torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())
    one_node = launch.local_size == launch.size
    if launch.launcher == "torchrun":
        dist.init_process_group(backend, timeout=timeout)
    elif backend == "nccl" and not one_node:
        if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
            raise UserError("distributed backend 'nccl' on several nodes: set MASTER_ADDR and MASTER_PORT")
        url = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        dist.init_process_group(backend, url, rank=launch.rank, world_size=launch.size, timeout=timeout)
    else:
        store = FileStore(str(job_store_path(launch)), launch.size)
        dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.size, timeout=timeout)
    return World(
        rank=launch.rank,
        size=launch.size,
        local_rank=launch.local_rank,
        local_size=launch.local_size or 1,
        backend=backend,
    )


def finalize() -> None:
    """Leave the job cleanly: collective over all ranks. Without effect in a world of one, or called twice."""
    global _world
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    if _world is not None and _world.backend == "mpi4py" and _world.size > 1:
        from pyjpllm.distributed import runtime

        runtime.finalize()
    _world = None
