"""What every rank of this node is doing, in memory that all of them can read without MPI.

One record a rank: who it is, its state, and for each process group how many collectives it has enqueued and ended.
The watchdog reads the table to say which ranks are missing. The file behind it has no name any more once all ranks
have opened it, so a job that is killed leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# States of a rank.
RUNNING, LEAVING, FAILED, ENDING = 1, 2, 3, 4

_HEADER = struct.Struct("<qqqQQ")  # pid, world rank, state, start time (clock ticks since boot), PID namespace
_SLOT = struct.Struct("<QQQ48s")  # group, collectives enqueued, collectives ended, name of the last one enqueued
_ENQUEUED = struct.Struct("<QQ")
_LABEL = struct.Struct("<48s")
# Groups beyond these have no slot; the watchdog then says less about them.
SLOTS = 62
RECORD = 8192
assert _HEADER.size + SLOTS * _SLOT.size <= RECORD


@dataclass(frozen=True)
class Standing:
    """How far one rank is on one group."""

    enqueued: int
    ended: int
    label: str


@dataclass(frozen=True)
class Record:
    """One rank of this node."""

    pid: int
    rank: int
    state: int
    start_time: int
    namespace: int


class Table:
    """The node's table. ``index`` is this process's record."""

    def __init__(self, memory: mmap.mmap, index: int, count: int, rank: int) -> None:
        self._memory = memory
        self._index = index
        self.count = count
        self._slots: dict[int, int] = {}
        own = (os.getpid(), rank, RUNNING, process_start_time(os.getpid()), pid_namespace())
        _HEADER.pack_into(memory, index * RECORD, *own)

    @classmethod
    def shared(cls, node: Any, rank: int) -> Table:
        """Make the table of the ranks of ``node`` (an MPI communicator of one node). Collective, at start-up only.

        Where the ranks of a node do not share a folder (a container each), every rank has a table of its own.
        """
        index, count = node.Get_rank(), node.Get_size()
        path = None
        if index == 0:
            descriptor, path = tempfile.mkstemp(prefix="pyjpllm-", dir=_memory_folder())
            os.ftruncate(descriptor, count * RECORD)
            os.close(descriptor)
        path = node.bcast(path, 0)
        memory = _map(path, count * RECORD)
        everybody = node.allreduce(int(memory is not None)) == count  # and all have opened it
        if index == 0:
            with contextlib.suppress(OSError):
                os.unlink(path)
        if memory is None or not everybody:
            memory, index, count = mmap.mmap(-1, RECORD), 0, 1
        table = cls(memory, index, count, rank)
        node.Barrier()
        return table

    # -- writing this rank's record

    def set_state(self, state: int) -> None:
        """Publish LEAVING (a clean end), FAILED, or ENDING (because of another rank)."""
        struct.pack_into("<q", self._memory, self._index * RECORD + 16, state)

    def enqueued(self, group: int, sequence: int, label: str) -> None:
        """This rank has enqueued its collective number ``sequence`` on ``group``."""
        offset = self._offset(group)
        if offset is not None:
            # Not the number of those ended: who ends one writes that.
            _ENQUEUED.pack_into(self._memory, offset, group, sequence)
            _LABEL.pack_into(self._memory, offset + 24, label.encode())

    def ended(self, group: int, sequence: int) -> None:
        """This rank's collective number ``sequence`` on ``group`` is done."""
        offset = self._offset(group)
        if offset is not None:
            struct.pack_into("<Q", self._memory, offset + 16, sequence)

    def _offset(self, group: int) -> int | None:
        slot = self._slots.get(group)
        if slot is None:
            if len(self._slots) >= SLOTS:
                return None
            slot = self._slots[group] = len(self._slots)
        return self._index * RECORD + _HEADER.size + slot * _SLOT.size

    # -- reading everybody's

    def records(self) -> list[Record]:
        """The ranks of this node, this one included."""
        return [Record(*_HEADER.unpack_from(self._memory, i * RECORD)) for i in range(self.count)]

    def standing(self, index: int, group: int) -> Standing | None:
        """How far the rank of record ``index`` is on ``group``; None when it has enqueued nothing there."""
        base = index * RECORD + _HEADER.size
        for slot in range(SLOTS):
            name, enqueued, ended, label = _SLOT.unpack_from(self._memory, base + slot * _SLOT.size)
            if name == 0:
                return None
            if name == group:
                return Standing(enqueued, ended, label.rstrip(b"\0").decode(errors="replace"))
        return None

    def last_label(self, index: int) -> str:
        """The collective that the rank of record ``index`` is in, in any group, or "" when in none."""
        base = index * RECORD + _HEADER.size
        for slot in range(SLOTS):
            name, enqueued, ended, label = _SLOT.unpack_from(self._memory, base + slot * _SLOT.size)
            if name and enqueued > ended:
                return f"{label.rstrip(bytes(1)).decode(errors='replace')} #{enqueued}"
        return ""


def group_key(name: str) -> int:
    """A group's name as a number that is the same in every process, and not 0."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") | 1


def process_start_time(pid: int) -> int:
    """When ``pid`` started (clock ticks since boot, proc(5) field 22), or 0 when there is no such process."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def process_state(record: Record) -> str:
    """One of "alive", "stopped", "gone", and "out of sight" when it cannot be seen from here."""
    if record.start_time == 0 or record.namespace != pid_namespace():
        return "out of sight"
    fields = _stat(record.pid)
    if not fields or fields[0] in "ZX" or int(fields[19]) != record.start_time:
        return "gone"
    return "stopped" if fields[0] in "Tt" else "alive"


def pid_namespace() -> int:
    """Process ids mean something only inside of one; 0 where there is no such thing."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _map(path: str, size: int) -> mmap.mmap | None:
    try:
        with open(path, "r+b") as file:
            return mmap.mmap(file.fileno(), size)
    except OSError:
        return None


def _stat(pid: int) -> list[str]:
    # The first thread's file: QEMU makes up the process's own /proc/PID/stat, with another start than all others see.
    try:
        return Path(f"/proc/{pid}/task/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def _memory_folder() -> str:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
