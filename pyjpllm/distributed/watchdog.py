"""The thread that ends a job which cannot go on: an operation past its deadline, a rank that died, failed, left or
was stopped, a launcher that is gone. It never calls MPI; it reads the node's table, says on one line what it found,
and ends this process with ``os._exit``, on which the launcher ends the others.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pyjpllm.distributed import leftovers
from pyjpllm.distributed.progress import ENDING, FAILED, LEAVING, Record, Table, process_state

# Exit codes: an operation past its deadline (as timeout(1)), and a rank or the launcher lost.
STALLED, LOST = 124, 1
_PERIOD_S = 1.0
# A rank that has left cannot join an operation any more; this long others may still be on their way to notice.
_LEFT_GRACE_S = 5.0


class Watchdog:
    """Looks at ``pending`` (the operations under way) and at the node's ranks once a second."""

    def __init__(self, rank: int, table: Table, pending: dict[int, Any], on_end: Callable[[], None]) -> None:
        self._rank = rank
        self._table = table
        self._pending = pending
        self._on_end = on_end
        self._stop = threading.Event()
        self._launcher = os.getppid()
        self._thread = threading.Thread(target=self._run, name="pyjpllm-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period()):
            found = self._deadline() or self._lost_rank() or self._left_rank() or self._lost_launcher()
            if found is not None and not self._stop.is_set():
                code, message = found
                self.end(code, message)

    def _period(self) -> float:
        """A second, or less when a deadline comes sooner."""
        now = time.monotonic()
        soonest = min((op.deadline - now for op in self._operations()), default=_PERIOD_S)
        return min(_PERIOD_S, max(0.01, soonest))

    def _operations(self) -> list[Any]:
        with contextlib.suppress(RuntimeError):  # the dictionary changed size meanwhile: look again next time
            return list(self._pending.values())
        return []

    def end(self, code: int, message: str) -> None:
        """Say why and end this process, and so the job."""
        self._table.set_state(ENDING)
        if self._orphaned():
            leftovers.remove_own()
        for write in (sys.stdout.flush, lambda: os.write(2, f"[rank {self._rank}] pyjpllm: {message}\n".encode())):
            with contextlib.suppress(Exception):  # a dead launcher has left us broken pipes
                write()
        self._on_end()
        os._exit(code)

    # -- what can be wrong

    def _deadline(self) -> tuple[int, str] | None:
        now = time.monotonic()
        late = [op for op in self._operations() if now > op.deadline]
        if not late:
            return None
        op = min(late, key=lambda op: op.started)
        return STALLED, f"{self._named(op)} is not done after {now - op.started:.0f} s: {self._who_is_where(op)}"

    def _lost_rank(self) -> tuple[int, str] | None:
        for record in self._table.records():
            if record.rank == self._rank:
                continue
            if record.state == FAILED:
                return LOST, f"rank {record.rank} (pid {record.pid}) has failed; ending this job"
            if record.state not in (LEAVING, ENDING) and process_state(record) == "gone":
                return LOST, f"rank {record.rank} (pid {record.pid}) has died; ending this job"
        return None

    def _left_rank(self) -> tuple[int, str] | None:
        now = time.monotonic()
        leaving = {r.rank: i for i, r in enumerate(self._table.records()) if r.state == LEAVING}
        for op in self._operations():
            if op.group is None or now - op.started < _LEFT_GRACE_S:
                continue
            for rank in op.group.ranks:
                index = leaving.get(rank)
                if index is None or rank == self._rank:
                    continue
                standing = self._table.standing(index, op.group.key)
                if op.lane is not None and (standing is None or standing.enqueued < op.sequence):
                    return LOST, f"{self._named(op)} cannot end: rank {rank} has left the job without taking part"
        return None

    def _lost_launcher(self) -> tuple[int, str] | None:
        if not self._orphaned():
            return None
        return LOST, f"the launcher (pid {self._launcher}) is gone; ending this rank"

    def _orphaned(self) -> bool:
        return os.getppid() != self._launcher

    # -- naming

    def _named(self, op: Any) -> str:
        if op.group is None:
            return str(op.describe())
        number = f" #{op.sequence}" if op.lane is not None else ""
        return f"{op.describe()}{number} of group {op.group.group_name!r} (ranks {_ranges(op.group.ranks)})"

    def _who_is_where(self, op: Any) -> str:
        """Which ranks wait and which are missing, as far as this node can see."""
        records = self._table.records()
        if op.group is None or op.lane is None:
            return "; ".join(self._place(i, r) for i, r in enumerate(records) if r.rank != self._rank)
        waiting, missing, seen = [], [], set()
        for index, record in enumerate(records):
            if record.rank not in op.group.ranks:
                continue
            seen.add(record.rank)
            standing = self._table.standing(index, op.group.key)
            if standing is not None and standing.enqueued >= op.sequence:
                waiting.append(record.rank)
            else:
                missing.append(self._place(index, record, standing.enqueued if standing else 0))
        parts = [f"waiting: {_ranges(waiting)}", f"missing: {', '.join(missing) or 'none'}"]
        elsewhere = [rank for rank in op.group.ranks if rank not in seen]
        if elsewhere:
            parts.append(f"on other nodes, see their lines: {_ranges(elsewhere)}")
        return "; ".join(parts)

    def _place(self, index: int, record: Record, at: int | None = None) -> str:
        state = {FAILED: "failed", LEAVING: "has left", ENDING: "is ending"}.get(record.state) or process_state(record)
        inside = self._table.last_label(index)
        parts = [f"pid {record.pid}", state]
        if at is not None:
            parts.append(f"at #{at} of this group")
        if inside:
            parts.append(f"in {inside}")
        return f"rank {record.rank} ({', '.join(parts)})"


def _ranges(ranks: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2, 5``."""
    parts: list[str] = []
    ordered = sorted(ranks)
    start = 0
    for i in range(1, len(ordered) + 1):
        if i == len(ordered) or ordered[i] != ordered[i - 1] + 1:
            first, last = ordered[start], ordered[i - 1]
            parts.append(str(first) if first == last else f"{first}-{last}")
            start = i
    return ", ".join(parts) or "none"
