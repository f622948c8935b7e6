"""Without a core for communication: those who submit and wait call MPI themselves, one at a time.

A thread that shares its core with compute hides nothing and takes time from it (measured: docs/performance.md). So an
operation is posted by the call that submits it, goes on whenever somebody submits, asks or waits, and a rank that waits
has its core for it. One thread looks in now and then, so that what nobody waits for goes on as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pyjpllm.distributed.comm_thread import fine_timer
from pyjpllm.distributed.engine import Engine, Operation, pause, single_torch_thread

if TYPE_CHECKING:
    from pyjpllm.distributed.work import MPIWork

# How long nobody may look before the thread does.
_BEAT_S = 10e-3
# A rank that waits polls without a nap for this long; it yields its core to others that compute on it.
_SPIN_S = 2e-3


class Callers(Engine):
    """An engine that has no thread of its own, but for a beat."""

    def __init__(self, testall: Callable[..., bool], on_done: Callable[[Operation], None]) -> None:
        super().__init__(testall, on_done)
        self._lock = threading.RLock()  # MPI_THREAD_SERIALIZED: one thread in MPI at a time
        self._looked = 0.0
        self._watched: set[MPIWork] = set()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._beat, name="pyjpllm-mpi", daemon=True)
        self._thread.start()

    @contextmanager
    def _in_mpi(self) -> Iterator[None]:
        with self._lock, torch.no_grad():
            self._looked = time.perf_counter()
            yield

    def _begin(self, operation: Operation) -> None:
        with self._in_mpi():
            self._admit(operation)
            self._poll()
        if self.pending and not self._wake.is_set():
            self._wake.set()

    def wait(self, work: MPIWork, seconds: float | None) -> bool:
        end = None if seconds is None else time.monotonic() + seconds
        since = time.perf_counter()
        while not work.is_finished:
            with self._in_mpi():
                progressed = self._poll()
            now = time.perf_counter()
            if progressed:
                since = now
            elif not work.is_finished:
                if end is not None and time.monotonic() > end:
                    return False
                pause(now - since, _SPIN_S)
        return True

    def look(self) -> None:
        with self._in_mpi():
            self._poll()

    def watch(self, work: MPIWork) -> None:
        self._watched.add(work)
        self._wake.set()

    def cancel(self, work: MPIWork) -> None:
        with self._in_mpi():
            self._cancel(work)

    def stop(self) -> None:
        since = time.perf_counter()
        while self.pending:
            self.look()
            pause(time.perf_counter() - since, 0.0)
        self._stopping = True
        self._wake.set()
        self._thread.join()

    # -- the thread

    def _beat(self) -> None:
        single_torch_thread()
        fine_timer()
        since = time.perf_counter()
        while True:
            self._wake.wait()
            if self._stopping:
                return
            for work in list(self._watched):
                if work.is_finished:
                    self._watched.discard(work)
            if self._watched:
                with self._in_mpi():
                    progressed = self._poll()
                now = time.perf_counter()
                since = now if progressed else since
                pause(now - since, 0.0)
                continue
            with self._lock:
                if not self.pending:
                    self._wake.clear()
                    continue
            time.sleep(_BEAT_S)
            if time.perf_counter() - self._looked > _BEAT_S:
                self.look()
