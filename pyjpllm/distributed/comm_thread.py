"""The one thread that calls MPI: it starts operations, tests them, and completes their Works.

An operation is a generator that posts nonblocking MPI calls and yields the requests to wait for; between two yields
it may compute. Operations of one communicator (a ``Lane``) start in the order in which they were enqueued, the next
one as soon as its predecessor has posted its last calls; point-to-point operations and different communicators do not
wait for each other. Nothing here blocks inside MPI, so that a send enqueued behind a collective still leaves, and two
ranks that send to each other before they receive do not deadlock.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import torch

from pyjpllm.distributed.work import MPIWork

Steps = Generator[list[Any], None, Any]

# Poll without a pause for this long while somebody waits; then let the core go between polls, ever longer up to the
# last: measured, 20 us costs nothing visible, and a rank that is late by milliseconds is late anyway.
_SPIN_S = 2e-3
_NAP_S = 20e-6
_LONG_WAIT_S = 50e-3
_LONG_NAP_S = 200e-6


class Lane:
    """The order of collectives on one communicator."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.busy: Operation | None = None
        self.waiting: deque[Operation] = deque()


class Operation:
    """A generator under way, with what the watchdog needs to name it."""

    __slots__ = (
        "deadline",
        "describe",
        "group",
        "lane",
        "requests",
        "sequence",
        "source",
        "started",
        "statuses",
        "steps",
        "tail",
        "work",
    )

    def __init__(
        self,
        work: MPIWork,
        lane: Lane | None,
        describe: Callable[[], str],
        group: Any,
        sequence: int,
        deadline: float,
    ) -> None:
        self.work = work
        self.lane = lane
        self.describe = describe
        self.group = group
        self.sequence = sequence
        self.deadline = deadline
        self.steps: Steps | None = None
        self.requests: list[Any] = []
        self.statuses: list[Any] | None = None  # set by a generator that wants to know the source
        self.tail = False  # set by the generator before it yields its last requests
        self.source = -1
        self.started = 0.0


class CommThread:
    """Owns MPI after start-up. Any thread may ``submit``; only this one calls MPI."""

    def __init__(self, testall: Callable[..., bool], on_done: Callable[[Operation], None]) -> None:
        self._testall = testall
        self._on_done = on_done
        self._inbox: queue.SimpleQueue[Operation | MPIWork | None] = queue.SimpleQueue()
        self.waiters: set[MPIWork] = set()
        self.pending: dict[int, Operation] = {}  # by id; read by the watchdog
        self._thread = threading.Thread(target=self._run, name="pyjpllm-mpi", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation, steps: Steps) -> MPIWork:
        """Enqueue; returns at once. The order of calls is the order on the operation's lane."""
        operation.steps = steps
        operation.started = time.monotonic()
        self.pending[id(operation)] = operation
        self._inbox.put(operation)
        return operation.work

    def cancel(self, work: MPIWork) -> None:
        """Take back a receive that will not be matched (MPI_Cancel); it then ends as if done."""
        self._inbox.put(work)

    def stop(self) -> None:
        """Finish what is enqueued, then end the thread."""
        self._inbox.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    # -- the thread

    def _run(self) -> None:
        torch.set_grad_enabled(False)  # of this thread only
        _single_torch_thread()
        _fine_timer()
        active: list[Operation] = []
        stopping = False
        last_progress = time.perf_counter()
        while not (stopping and not active):
            progressed = False
            try:
                while True:
                    operation = self._inbox.get() if not active and not stopping else self._inbox.get_nowait()
                    if operation is None:
                        stopping = True
                    elif isinstance(operation, MPIWork):
                        for request in [r for op in active if op.work is operation for r in op.requests]:
                            request.Cancel()
                    else:
                        self._admit(operation, active)
                    progressed = True
            except queue.Empty:
                pass
            for operation in list(active):
                if self._poll(operation, active):
                    progressed = True
            operation = None  # its tensors would live on until the next one comes
            now = time.perf_counter()
            if progressed:
                last_progress = now
            elif active:
                self._pause(now - last_progress)

    def _pause(self, idle_s: float) -> None:
        if idle_s < _SPIN_S and self.waiters:
            os.sched_yield()
        else:
            time.sleep(_NAP_S if idle_s < _LONG_WAIT_S else _LONG_NAP_S)

    def _admit(self, operation: Operation, active: list[Operation]) -> None:
        lane = operation.lane
        if lane is None:
            self._advance(operation, active)
        elif lane.busy is not None or lane.waiting:
            lane.waiting.append(operation)
        else:
            lane.busy = operation
            self._advance(operation, active)
            self._next_on(lane, active)

    def _next_on(self, lane: Lane, active: list[Operation]) -> None:
        """Start what may start on ``lane``: its operation has ended, or has posted its last calls."""
        while (lane.busy is None or lane.busy.tail) and lane.waiting:
            operation = lane.waiting.popleft()
            lane.busy = operation
            self._advance(operation, active)

    def _poll(self, operation: Operation, active: list[Operation]) -> bool:
        try:
            if not self._testall(operation.requests, operation.statuses):
                return False
        except BaseException as error:
            self._finish(operation, active, error)
        else:
            self._advance(operation, active)
        if operation.lane is not None:
            self._next_on(operation.lane, active)
        return True

    def _advance(self, operation: Operation, active: list[Operation]) -> None:
        """Run the generator up to requests that are still under way, or to its end."""
        steps = operation.steps
        assert steps is not None
        try:
            while True:
                operation.requests = next(steps)
                if operation.requests and not self._testall(operation.requests, operation.statuses):
                    break
        except StopIteration:
            self._finish(operation, active, None)
        except BaseException as error:
            self._finish(operation, active, error)
        else:
            if operation not in active:
                active.append(operation)

    def _finish(self, operation: Operation, active: list[Operation], error: BaseException | None) -> None:
        if operation in active:
            active.remove(operation)
        if operation.lane is not None and operation.lane.busy is operation:
            operation.lane.busy = None
        operation.steps = None
        self.pending.pop(id(operation), None)
        self._on_done(operation)
        if error is not None:
            cause, error = error, RuntimeError(f"mpi4py: {operation.describe()}: {error}")
            error.__cause__ = cause
        operation.work.finish(error, operation.source)


def _single_torch_thread() -> None:
    """Let torch compute with one thread on this thread, and change nothing for the others.

    ``torch.set_num_threads`` sets the calling thread's OpenMP team and a process-wide default for threads to come;
    a helper thread puts the default back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    helper = threading.Thread(target=torch.set_num_threads, args=(before,))
    helper.start()
    helper.join()


def _fine_timer() -> None:
    """Linux rounds short sleeps up by 50 us unless a thread asks otherwise (prctl(2), PR_SET_TIMERSLACK)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(29, 1000, 0, 0, 0)
