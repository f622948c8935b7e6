"""Handles of operations under way: torch's Work and Future, completed by the engine that carries them out."""

from __future__ import annotations

import _thread
import datetime
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
from torch.futures import Future

from pyjpllm.distributed.engine import Engine

# Python callbacks on a Future may call collectives and wait for them (torch's PowerSGD hook does), so they must not
# run where operations are carried out, nor wait for each other: a pool that grows while all its threads are busy.
_MAX_CALLBACK_THREADS = 64
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _callback_pool() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(_MAX_CALLBACK_THREADS, thread_name_prefix="pyjpllm-callback")
        return _pool


class MPIFuture(Future[Any]):
    """A torch Future that knows whether Python callbacks hang on it."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._has_callbacks = False

    def then(self, callback: Callable[[Future[Any]], Any]) -> Future[Any]:
        with self._guard:
            self._has_callbacks = True
            return super().then(callback)

    def add_done_callback(self, callback: Callable[[Future[Any]], Any]) -> None:
        with self._guard:
            self._has_callbacks = True
            super().add_done_callback(callback)

    def complete(self, value: Any, error: BaseException | None) -> None:
        """Set the result or the exception; with callbacks, on a thread where they may block."""
        with self._guard:
            if not self._has_callbacks:
                self._set(value, error)
                return
        _callback_pool().submit(self._set, value, error)

    def _set(self, value: Any, error: BaseException | None) -> None:
        if error is None:
            self.set_result(value)
        else:
            self.set_exception(error)


class MPIWork(dist.Work):
    """One operation, which ``engine`` carries out."""

    def __init__(self, outputs: list[torch.Tensor], engine: Engine, label: str) -> None:
        super().__init__()
        self._outputs = outputs
        self._engine = engine
        self._label = label
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self.is_finished = False
        self._error: BaseException | None = None
        self._source = -1
        self._future: MPIFuture | None = None
        self._lock = _thread.allocate_lock()

    # -- for the engine

    def finish(self, error: BaseException | None = None, source: int = -1) -> None:
        """Mark as done, wake those who wait, complete the future."""
        self._error = error
        self._source = source
        with self._lock:
            self.is_finished = True
            future = self._future
        self._gate.release()
        if future is not None:
            future.complete(self._outputs, error)

    def wait_for_gate(self, seconds: float | None) -> bool:
        """Sleep until another thread calls ``finish``; False when it has not within ``seconds``."""
        if not self._gate.acquire(timeout=-1 if seconds is None else seconds):
            return False
        self._gate.release()
        return True

    # -- torch's interface

    def wait(self, timeout: datetime.timedelta | None = None) -> bool:
        """Block until done; raise the operation's error, or RuntimeError after ``timeout`` (zero: no limit)."""
        if not self.is_finished:
            seconds = timeout.total_seconds() if timeout else 0.0
            if not self._engine.wait(self, seconds if seconds > 0 else None):
                raise RuntimeError(f"{self._label}: not done after {seconds:g} s")
        if self._error is not None:
            raise self._error
        return True

    def is_completed(self) -> bool:
        if not self.is_finished:
            self._engine.look()
        return self.is_finished

    def is_success(self) -> bool:
        return self.is_completed() and self._error is None

    def exception(self) -> BaseException | None:
        return self._error

    def synchronize(self) -> None:
        self.wait()

    def result(self) -> list[torch.Tensor]:
        self.wait()
        return self._outputs

    def source_rank(self) -> int:
        return self._source

    _source_rank = source_rank

    def get_future(self) -> Future[Any]:
        """A Future of the list of output tensors."""
        with self._lock:
            if self._future is None:
                self._future = MPIFuture()
                if self.is_finished:
                    self._future.complete(self._outputs, self._error)
                else:
                    self._engine.watch(self)
            return self._future


class WorkList(dist.Work):
    """Several works as one, for torch's coalescing manager."""

    def __init__(self, works: list[Any]) -> None:
        super().__init__()
        self._works = works

    def wait(self, timeout: datetime.timedelta | None = None) -> bool:
        for work in self._works:
            work.wait(timeout) if timeout else work.wait()
        return True

    def is_completed(self) -> bool:
        return all(work.is_completed() for work in self._works)

    def is_success(self) -> bool:
        return all(work.is_success() for work in self._works)

    def exception(self) -> BaseException | None:
        return next((error for work in self._works if (error := work.exception()) is not None), None)

    def synchronize(self) -> None:
        self.wait()

    def result(self) -> list[torch.Tensor]:
        return [tensor for work in self._works for tensor in work.result()]

    def get_future(self) -> Future[Any]:
        return torch.futures.collect_all([work.get_future() for work in self._works])
