"""Without a core for communication: those who submit and wait call MPI themselves, one at a time.

What shares its core with compute hides nothing and takes time and cache from it. So a message is posted by the call
that submits it, a collective when somebody first waits or asks, and a rank that waits has its core for it. One thread
looks in now and then, so that what nobody waits for goes on as well.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from pyjpllm.distributed.comm_thread import fine_timer
from pyjpllm.distributed.engine import Engine, Operation, pause, single_torch_thread

if TYPE_CHECKING:
    from pyjpllm.distributed.work import MPIWork

# How long nobody may look before the thread does: while there is a message, for which another rank may stand idle, and
# while there are only collectives.
_BEAT_S = 10e-3
_LONG_BEAT_S = 100e-3
# A rank that waits polls without a nap for this long; it yields its core to others that compute on it.
_SPIN_S = 2e-3


class Callers(Engine):
    """An engine that has no thread of its own, but for a beat."""

    def __init__(self, testall: Callable[..., bool], on_done: Callable[[Operation], None]) -> None:
        super().__init__(testall, on_done)
        self._in_mpi = _InMPI()
        self._put_off: deque[Operation] = deque()
        self._watched: set[MPIWork] = set()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._beat, name="pyjpllm-mpi", daemon=True)
        self._thread.start()

    def _begin(self, operation: Operation) -> None:
        self._put_off.append(operation)
        if operation.lane is None:
            self.look()
        if self.pending and not self._wake.is_set():
            self._wake.set()

    def _poll(self) -> bool:
        while self._put_off:
            self._admit(self._put_off.popleft())
        return super()._poll()

    def wait(self, work: MPIWork, seconds: float | None) -> bool:
        end = None if seconds is None else time.monotonic() + seconds
        since = time.perf_counter()
        while not work.is_finished:
            with self._in_mpi:
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
        with self._in_mpi:
            self._poll()

    def watch(self, work: MPIWork) -> None:
        self._watched.add(work)
        self._hurry.set()
        self._wake.set()

    def cancel(self, work: MPIWork) -> None:
        with self._in_mpi:
            self._cancel(work)

    def stop(self) -> None:
        since = time.perf_counter()
        while self.pending:
            self.look()
            pause(time.perf_counter() - since, 0.0)
        self._stopping = True
        self._hurry.set()
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
            self._hurry.clear()
            for work in list(self._watched):
                if work.is_finished:
                    self._watched.discard(work)
            if self._watched:
                with self._in_mpi:
                    progressed = self._poll()
                now = time.perf_counter()
                since = now if progressed else since
                pause(now - since, 0.0)
                continue
            with self._in_mpi:
                if not self.pending:
                    self._wake.clear()
                    if self.pending or self._watched or self._stopping:  # they came between the look and the clearing
                        self._wake.set()
                    continue
            beat = self._period()
            if not self._hurry.wait(beat) and time.perf_counter() - self._in_mpi.entered >= beat:
                self.look()

    def _period(self) -> float:
        with contextlib.suppress(RuntimeError):  # the dictionary changed size meanwhile
            return _BEAT_S if any(op.lane is None for op in self.pending.values()) else _LONG_BEAT_S
        return _BEAT_S


class _InMPI:
    """The right to call MPI, of one thread at a time (MPI_THREAD_SERIALIZED), and no autograd meanwhile.

    It is taken for every poll, so it is no generator.
    """

    __slots__ = ("_lock", "_modes", "entered")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._modes: list[bool] = []
        self.entered = 0.0
        """When somebody did last, by `time.perf_counter`."""

    def __enter__(self) -> None:
        self._lock.acquire()
        self.entered = time.perf_counter()
        self._modes.append(torch.is_grad_enabled())
        torch.set_grad_enabled(False)

    def __exit__(self, *_: object) -> None:
        torch.set_grad_enabled(self._modes.pop())
        self._lock.release()
