"""The communication thread: with a core of its own, it alone calls MPI, while all others compute.

MPI's nonblocking calls hardly progress by themselves; this thread is what moves data meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from pyjpllm.distributed.engine import Engine, Operation, pause, single_torch_thread

if TYPE_CHECKING:
    from pyjpllm.distributed.work import MPIWork

# Poll without a pause for this long while somebody waits.
_SPIN_S = 2e-3


class CommThread(Engine):
    """An engine whose thread owns MPI after start-up.

    Args:
        testall, on_done: as for every engine.
        cpus: those that the thread may run on; None: all of the process's.
    """

    def __init__(
        self, testall: Callable[..., bool], on_done: Callable[[Operation], None], cpus: frozenset[int] | None = None
    ) -> None:
        super().__init__(testall, on_done)
        self._cpus = cpus
        self._inbox: queue.SimpleQueue[Operation | MPIWork | None] = queue.SimpleQueue()
        self._waiters: set[MPIWork] = set()
        self._thread = threading.Thread(target=self._run, name="pyjpllm-mpi", daemon=True)
        self._thread.start()

    def _begin(self, operation: Operation) -> None:
        self._inbox.put(operation)

    def wait(self, work: MPIWork, seconds: float | None) -> bool:
        self._waiters.add(work)
        try:
            return work.wait_for_gate(seconds)
        finally:
            self._waiters.discard(work)

    def look(self) -> None:
        """The thread looks all the time."""

    def watch(self, work: MPIWork) -> None:
        """The thread will end it."""

    def cancel(self, work: MPIWork) -> None:
        self._inbox.put(work)

    def stop(self) -> None:
        self._inbox.put(None)
        self._thread.join()

    # -- the thread

    def _run(self) -> None:
        if self._cpus:
            os.sched_setaffinity(0, self._cpus)
        torch.set_grad_enabled(False)  # of this thread only
        single_torch_thread()
        fine_timer()
        stopping = False
        last_progress = time.perf_counter()
        while not (stopping and not self._active):
            progressed = False
            try:
                while True:
                    item = self._inbox.get() if not self._active and not stopping else self._inbox.get_nowait()
                    if item is None:
                        stopping = True
                    elif isinstance(item, Operation):
                        self._admit(item)
                    else:
                        self._cancel(item)
                    item = None  # its tensors would live on until the next one comes
                    progressed = True
            except queue.Empty:
                pass
            progressed |= self._poll()
            now = time.perf_counter()
            if progressed:
                last_progress = now
            elif self._active:
                pause(now - last_progress, _SPIN_S if self._waiters else 0.0)


def fine_timer() -> None:
    """Linux rounds short sleeps up by 50 us unless a thread asks otherwise (prctl(2), PR_SET_TIMERSLACK)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(29, 1000, 0, 0, 0)
