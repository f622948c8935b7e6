"""Times of several functions that take turns, and the memory that one call takes."""

from __future__ import annotations

import ctypes
import gc
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pyjpllm.bench.probe import resident_bytes

Work = Callable[[], object]

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_memory() -> bool:
    """Let malloc keep what is freed, so that no later call pays for fresh pages; whether this malloc can.

    A page's first touch costs more than a memory-bound operation has to do on it, on either side alike: without this
    the figures of such operations are those of the system's page faults. All threads share one heap from now on: it is
    the only one that `extra_bytes` can hand back whole before it measures.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return all(mallopt(option, value) for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)))


def take_turns(
    works: Sequence[Work], *, rounds: int, seconds: float, clock: Callable[[], float] = time.process_time
) -> list[float]:
    """The least time of one call of each, in seconds on ``clock``.

    Each is called once untimed; then they take turns, in changing order, ``rounds`` times, fewer (but two at least)
    where all together would take longer than ``seconds``. A short work is called several times for one timing.
    """
    calls = []
    estimate = 0.0
    for work in works:
        once = _time(work, 1, clock)
        if once < 2e-3:  # the first call loads things and warms caches: a guess made of it would be too few calls
            once = _time(work, 1, clock)
        calls.append(max(1, min(10_000, math.ceil(1e-3 / max(once, 1e-7)))))
        estimate += once * calls[-1]
    turns = max(min(rounds, 2), min(rounds, int(seconds / max(estimate, 1e-9))))
    best = [math.inf] * len(works)
    for turn in range(turns):
        order = range(len(works)) if turn % 2 == 0 else reversed(range(len(works)))
        for i in order:
            best[i] = min(best[i], _time(works[i], calls[i], clock))
    return best


def _time(work: Work, calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        work()
    return (clock() - start) / calls


def extra_bytes(work: Work, results: Callable[[object], int]) -> int | None:
    """The most memory one call of ``work`` takes beyond what was there and beyond its results (bytes, of what it
    returns); None where the system cannot say.

    The call is made in a thread of its own, because kernels keep a thread's work space for its next call.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        return None
    found: list[int] = []

    def measure() -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
        except OSError:
            return
        before, _ = resident_bytes()
        result = work()
        _, most = resident_bytes()
        found.append(max(0, most - before - results(result)))

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    return found[0] if found else None
