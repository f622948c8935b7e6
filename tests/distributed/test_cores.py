"""Who computes where, who moves messages; and that both engines do what is asked of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.distributed import runtime
from pyjpllm.distributed.callers import Callers
from pyjpllm.distributed.comm_thread import CommThread
from pyjpllm.distributed.cores import VARIABLE, WORDS, Cores, divide
from pyjpllm.distributed.engine import Lane, Operation
from pyjpllm.distributed.work import MPIWork
from pyjpllm.errors import UserError
from tests.mpi import run_ranks

LAST = (os.cpu_count() or 1) - 1
WITH_A_THREAD = {VARIABLE: str(LAST)} if LAST else {VARIABLE: "auto", "OMP_NUM_THREADS": "1"}


def cmg(setting: str, threads: int | None) -> Cores:
    """The second of four ranks of an A64FX, bound to its CMG; CPUs 0 and 1 are assistant cores."""
    return divide(setting, mine=set(range(24, 36)), online=60, local_rank=1, local_size=4, threads=threads)


def test_a_core_memory_group() -> None:
    whole = frozenset(range(24, 36))
    assert cmg("auto", None) == cmg("none", None) == cmg("auto", 12) == Cores(whole, None)
    assert cmg("reserve", None) == cmg("auto", 11) == Cores(whole - {35}, frozenset([35]))
    assert cmg("none", 11) == Cores(whole, None)
    assert cmg("0,1", None) == Cores(whole, frozenset([1]))  # the assistant cores, in turn


def test_unbound_ranks_share_the_node() -> None:
    def of(setting: str, threads: int | None, local_rank: int = 1) -> Cores:
        return divide(setting, mine=set(range(8)), online=8, local_rank=local_rank, local_size=2, threads=threads)

    assert of("auto", None) == of("auto", 4) == Cores(frozenset(range(8)), None)
    assert of("auto", 3) == Cores(frozenset(range(8)), frozenset(range(8)))
    assert of("reserve", None) == Cores(frozenset([4, 5, 6]), frozenset([7]))
    assert of("3", None, 0) == Cores(frozenset([0, 1, 2]), frozenset([3]))


def test_two_ranks_on_two_cores() -> None:
    both = [divide("1", mine={0, 1}, online=2, local_rank=rank, local_size=2, threads=1) for rank in (0, 1)]
    assert both == [Cores(frozenset([0]), frozenset([1]))] * 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("reservd", "allowed are auto, none, reserve and numbers of CPUs, as in 0,1; did you mean 'reserve'"),
        ("1,", "allowed are"),
        ("2", "there is no CPU 2 here; the last one is 1"),
        ("0,1", "no CPU is left to compute on"),
        ("reserve", "rank 0 of this node's 2 has no two of the CPUs"),
    ],
)
def test_mistakes(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        divide(setting, mine={0, 1}, online=2, local_rank=0, local_size=2, threads=1)


@given(
    st.sampled_from(WORDS),
    st.sets(st.integers(0, 15), min_size=1),
    st.integers(1, 8),
    st.one_of(st.none(), st.integers(1, 16)),
)
def test_every_rank_computes_and_none_loses_a_core(
    setting: str, mine: set[int], local_size: int, threads: int | None
) -> None:
    for rank in range(local_size):
        try:
            cores = divide(setting, mine=mine, online=16, local_rank=rank, local_size=local_size, threads=threads)
        except UserError:
            assert setting == "reserve"
            continue
        assert cores.compute
        assert cores.compute <= mine
        assert cores.communication is None or cores.communication <= mine
        if setting == "none":
            assert cores == Cores(frozenset(mine), None)


def engines(world):
    """What both engines must do; returns which one it was, and where its threads run."""
    rt = runtime.start()
    xs = [torch.full((50_000,), float(world.rank + k)) for k in range(3)]
    works = [dist.all_reduce(x, async_op=True) for x in xs]
    while not all(work.is_completed() for work in works):  # asked, never waited for
        time.sleep(1e-4)
    assert all(x.eq(sum(rank + k for rank in range(world.size))).all() for k, x in enumerate(xs))
    x = xs[0]
    future = dist.all_reduce(x, async_op=True).get_future()  # of which only torch knows who waits
    assert future.wait()[0] is x
    # A rank that computes for long keeps its word to one that waits.
    if world.rank == 0:
        work = dist.isend(torch.ones(1 << 20), 1)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            torch.ones(1000).sum()
        work.wait()
    elif world.rank == 1:
        dist.recv(torch.empty(1 << 20), 0)
    # Several threads wait at a time, each on a group of its own.
    groups = [dist.new_group() for _ in range(3)]
    found = []

    def sums(group: dist.ProcessGroup) -> None:
        for size in (1, 10_000, 100):
            y = torch.ones(size)
            dist.all_reduce(y, group=group)
            found.append(bool(y.eq(world.size).all()))

    threads = [threading.Thread(target=sums, args=(group,)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 9
    assert not rt.engine.pending
    beside = next(thread for thread in threading.enumerate() if thread.name == "pyjpllm-mpi")
    return type(rt.engine), os.sched_getaffinity(0), os.sched_getaffinity(beside.native_id)


def test_callers() -> None:
    everything = set(range(LAST + 1))
    assert run_ranks(engines, 2, env={VARIABLE: "none"}) == [(Callers, everything, everything)] * 2


@pytest.mark.skipif(LAST == 0, reason="a thread with a core of its own needs two cores")
def test_a_thread_with_a_core_of_its_own() -> None:
    found = run_ranks(engines, 2, env=WITH_A_THREAD)
    assert found == [(CommThread, set(range(LAST)), {LAST})] * 2


class _LastLook(threading.Event):
    """An event that, as it is cleared, lets ``meanwhile`` happen first: what another thread may do just then."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.meanwhile, self.cleared = meanwhile, threading.Event()

    def clear(self) -> None:
        self.meanwhile()
        super().clear()
        self.cleared.set()


def test_the_beat_that_goes_to_sleep_misses_no_stop() -> None:
    """An end that falls between the beat's last look at what is under way and its sleep is seen (a rank once hung at
    its exit here)."""
    engine = Callers(lambda *_: True, lambda _: None)

    def stop() -> None:
        engine._stopping = True
        engine._hurry.set()
        event.set()

    event = _LastLook(stop)
    before, engine._wake = engine._wake, event
    event.set()
    before.set()  # the thread waits for the old one
    assert event.cleared.wait(60)
    engine._thread.join(60)
    assert not engine._thread.is_alive()


def test_the_beat_that_goes_to_sleep_misses_no_operation() -> None:
    """So is an operation that begins just then, of which somebody has a Future: nobody else would carry it out."""
    engine = Callers(lambda *_: True, lambda _: None)
    works = []

    def submit() -> None:
        if works:
            return
        work = MPIWork([], engine, "a sum")
        works.append(work)
        operation = Operation(work, Lane(), lambda: "a sum", None, 0, time.monotonic() + 60)
        engine.submit(operation, iter(()))  # type: ignore[arg-type]  # a generator that is at its end
        engine.watch(work)

    event = _LastLook(submit)
    before, engine._wake = engine._wake, event
    event.set()
    before.set()
    assert event.cleared.wait(60)
    assert works[0].wait_for_gate(60)
    engine.stop()
