"""How ``init_process_group`` learns rank, size and a store from the launcher, with no TCP port.

``init_process_group("mpi4py")`` has the default ``init_method`` "env://", which looks for RANK, WORLD_SIZE and
MASTER_ADDR. Where an MPI launcher started us and RANK is not set, these come from the launcher instead; elsewhere
"env://" is what it always was. "mpi4py://" takes them from MPI itself, also in a plain ``python`` (a world of one).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from torch._C._distributed_c10d import Store

from pyjpllm.distributed.launch import Launch, detect, job_store_path
from pyjpllm.distributed.store import LazyFileStore

Rendezvous = Iterator[tuple[Store, int, int]]


def from_mpi(url: str, **_: Any) -> Rendezvous:
    """``mpi4py://``."""
    from pyjpllm.distributed import runtime

    rt = runtime.start()
    launch = detect() or Launch("none", 0, 1, 0, 1, "")
    yield LazyFileStore(job_store_path(launch), rt.size), rt.rank, rt.size


def from_environment(original: Callable[..., Rendezvous]) -> Callable[..., Rendezvous]:
    """``env://``, taught to read MPI launchers' variables."""

    def handler(url: str, **options: Any) -> Rendezvous:
        launch = detect()
        if "RANK" in os.environ or "rank=" in url or launch is None:
            return original(url, **options)
        if launch.size == 0:
            return from_mpi(url)
        return iter([(LazyFileStore(job_store_path(launch), launch.size), launch.rank, launch.size)])

    return handler


def register() -> None:
    """Make both known to torch, once."""
    # torch.distributed has a function of the module's name, so the module is not to be had as an attribute.
    handlers = importlib.import_module("torch.distributed.rendezvous")._rendezvous_handlers
    if "mpi4py" not in handlers:
        handlers["mpi4py"] = from_mpi
        handlers["env"] = from_environment(handlers["env"])


register()
