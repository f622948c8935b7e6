"""Operations under way: what starts, tests and ends them. Who calls MPI is said by a subclass of ``Engine``.

An operation is a generator that posts nonblocking MPI calls and yields the requests to wait for; between two yields
it may compute. Operations of one communicator (a ``Lane``) start in the order in which they were enqueued, the next
one as soon as its predecessor has posted its last calls; point-to-point operations and different communicators do not
wait for each other. Nothing here blocks inside MPI, so that a send enqueued behind a collective still leaves, and two
ranks that send to each other before they receive do not deadlock.
"""

from __future__ import annotations

import abc
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pyjpllm.distributed.work import MPIWork

Steps = Generator[list[Any], None, Any]

# Between polls that found nothing the core is let go: for a sixteenth of the time that it has been so, since a rank
# that is late by milliseconds is late anyway, and every nap that ends takes the core from one that computes.
_SHORTEST_NAP_S = 20e-6
_LONGEST_NAP_S = 500e-6


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


class Engine(abc.ABC):
    """All that is under way on this rank. Any thread may ``submit`` and ``wait``.

    Args:
        testall: whether MPI requests are done.
        on_done: told of every operation that has ended.
    """

    def __init__(self, testall: Callable[..., bool], on_done: Callable[[Operation], None]) -> None:
        self._testall = testall
        self._on_done = on_done
        self._active: list[Operation] = []
        self.pending: dict[int, Operation] = {}  # by id; read by the watchdog

    def submit(self, operation: Operation, steps: Steps) -> MPIWork:
        """Begin; returns at once. The order of calls is the order on the operation's lane."""
        operation.steps = steps
        operation.started = time.monotonic()
        self.pending[id(operation)] = operation
        self._begin(operation)
        return operation.work

    @abc.abstractmethod
    def _begin(self, operation: Operation) -> None:
        """Have it admitted."""

    @abc.abstractmethod
    def wait(self, work: MPIWork, seconds: float | None) -> bool:
        """Block until ``work`` has ended; False when it has not within ``seconds``."""

    @abc.abstractmethod
    def look(self) -> None:
        """Somebody asks whether an operation has ended, and does not wait."""

    @abc.abstractmethod
    def watch(self, work: MPIWork) -> None:
        """Somebody has a Future of ``work``, of which nobody here sees the waiting."""

    @abc.abstractmethod
    def cancel(self, work: MPIWork) -> None:
        """Take back a receive that will not be matched (MPI_Cancel); it then ends as if done."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Finish what has begun."""

    # -- for whoever calls MPI, one thread at a time and without autograd

    def _cancel(self, work: MPIWork) -> None:
        for request in [r for op in self._active if op.work is work for r in op.requests]:
            request.Cancel()

    def _admit(self, operation: Operation) -> None:
        lane = operation.lane
        if lane is None:
            self._advance(operation)
        elif lane.busy is not None or lane.waiting:
            lane.waiting.append(operation)
        else:
            lane.busy = operation
            self._advance(operation)
            self._next_on(lane)

    def _next_on(self, lane: Lane) -> None:
        """Start what may start on ``lane``: its operation has ended, or has posted its last calls."""
        while (lane.busy is None or lane.busy.tail) and lane.waiting:
            operation = lane.waiting.popleft()
            lane.busy = operation
            self._advance(operation)

    def _poll(self) -> bool:
        """Test all that is under way; whether any of it went on."""
        progressed = False
        for operation in list(self._active):
            if self._poll_one(operation):
                progressed = True
        return progressed

    def _poll_one(self, operation: Operation) -> bool:
        try:
            if not self._testall(operation.requests, operation.statuses):
                return False
        except Exception as error:
            self._finish(operation, error)
        else:
            self._advance(operation)
        if operation.lane is not None:
            self._next_on(operation.lane)
        return True

    def _advance(self, operation: Operation) -> None:
        """Run the generator up to requests that are still under way, or to its end."""
        steps = operation.steps
        assert steps is not None
        try:
            while True:
                operation.requests = next(steps)
                if operation.requests and not self._testall(operation.requests, operation.statuses):
                    break
        except StopIteration:
            self._finish(operation, None)
        except Exception as error:
            self._finish(operation, error)
        except BaseException as interrupt:  # Ctrl-C in the midst of it: the operation cannot go on
            self._finish(operation, interrupt)
            raise
        else:
            if operation not in self._active:
                self._active.append(operation)

    def _finish(self, operation: Operation, error: BaseException | None) -> None:
        if operation in self._active:
            self._active.remove(operation)
        if operation.lane is not None and operation.lane.busy is operation:
            operation.lane.busy = None
        operation.steps = None
        self.pending.pop(id(operation), None)
        self._on_done(operation)
        if error is not None:
            cause, error = error, RuntimeError(f"mpi4py: {operation.describe()}: {error}")
            error.__cause__ = cause
        operation.work.finish(error, operation.source)


def pause(idle_s: float, spin_s: float) -> None:
    """Between two polls, after ``idle_s`` seconds of polls that found nothing; without a nap up to ``spin_s``."""
    if idle_s < spin_s:
        os.sched_yield()
    else:
        time.sleep(min(max(idle_s / 16, _SHORTEST_NAP_S), _LONGEST_NAP_S))


def single_torch_thread() -> None:
    """Let torch compute with one thread on this thread, and change nothing for the others.

    ``torch.set_num_threads`` sets the calling thread's OpenMP team and a process-wide default for threads to come;
    a helper thread puts the default back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    helper = threading.Thread(target=torch.set_num_threads, args=(before,))
    helper.start()
    helper.join()
