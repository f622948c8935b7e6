"""Bodies about order and concurrency: what may overtake what, and what must not deadlock."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from pyjpllm.distributed import World

BIG = 1 << 21  # 8 MB of FP32: far past any eager limit, so a send completes only once it is received


def sends_before_receives(world: World) -> None:
    """Everybody sends large messages to everybody before receiving any."""
    n, r = world.size, world.rank
    peers = [p for p in range(n) if p != r]
    works = [dist.isend(torch.full((BIG,), float(r)), p) for p in peers]
    inbox = {p: torch.empty(BIG) for p in peers}
    works += [dist.irecv(inbox[p], p) for p in peers]
    for work in works:
        work.wait()
    for p in peers:
        assert inbox[p].eq(p).all()


def batched(world: World) -> None:
    n, r = world.size, world.rank
    got = torch.empty(BIG)
    operations = [
        dist.P2POp(dist.isend, torch.full((BIG,), float(r)), (r + 1) % n),
        dist.P2POp(dist.irecv, got, (r - 1) % n),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    assert got.eq((r - 1) % n).all()


def messages_keep_their_order(world: World) -> None:
    """Of one sender, tag and group: first sent, first received, whatever the sizes. Tags keep apart."""
    sizes = [3, 200_000, 0, 5, 70_000, 1]
    if world.rank == 0:
        works = [dist.isend(torch.full((size,), float(i)), 1, tag=5) for i, size in enumerate(sizes)]
        works += [dist.isend(torch.full((2,), 100.0 + tag), 1, tag=tag) for tag in (8, 7)]
        for work in works:
            work.wait()
    elif world.rank == 1:
        by_tag = {tag: torch.empty(2) for tag in (7, 8)}
        for tag in (7, 8):
            dist.recv(by_tag[tag], 0, tag=tag)
            assert by_tag[tag].eq(100.0 + tag).all()
        for i, size in enumerate(sizes):
            x = torch.empty(size)
            assert dist.recv(x, 0, tag=5) == 0
            assert x.eq(float(i)).all()


def from_anybody(world: World) -> None:
    if world.rank == 0:
        seen = {}
        for _ in range(world.size - 1):
            x = torch.empty(1)
            source = dist.recv(x)
            seen[source] = x.item()
        assert seen == {p: float(p) for p in range(1, world.size)}
    else:
        dist.send(torch.tensor([float(world.rank)]), 0)


def a_message_overtakes_a_collective(world: World) -> None:
    """Rank 0 enqueues a collective and then a message; rank 1 joins the collective only after the message."""
    x, token = torch.ones(BIG), torch.ones(4)
    if world.rank == 0:
        collective = dist.all_reduce(x, async_op=True)
        dist.send(token, 1)
        assert not collective.is_completed()
        collective.wait()
    else:
        if world.rank == 1:
            dist.recv(token, 0)
        dist.all_reduce(x)
    assert x.eq(world.size).all()


def collectives_keep_their_order(world: World) -> None:
    """A hundred at once, of different kinds and ways, waited for backwards."""
    works, checks = [], []
    for i in range(100):
        size = (1, 40_000, 500)[i % 3]
        dtype = (torch.float32, torch.bfloat16, torch.int64)[(i // 3) % 3]
        if i % 4 == 3:
            outs = [torch.empty(size, dtype=dtype) for _ in range(world.size)]
            works.append(dist.all_gather(outs, torch.full((size,), i + world.rank, dtype=dtype), async_op=True))
            checks.append((outs, [i + p for p in range(world.size)]))
        else:
            x = torch.full((size,), i % 7, dtype=dtype)
            works.append(dist.all_reduce(x, async_op=True))
            checks.append(([x], [i % 7 * world.size]))
    for work in reversed(works):
        work.wait()
    for got, want in checks:
        for x, value in zip(got, want, strict=True):
            assert x.eq(value).all()


def groups_do_not_wait_for_each_other(world: World) -> None:
    """Two groups with the same members, used by different ranks in a different order."""
    first, second = dist.new_group(), dist.new_group()
    a, b = torch.ones(50_000), torch.ones(3)
    groups = [(first, a), (second, b)]
    works = [dist.all_reduce(x, group=g, async_op=True) for g, x in (groups if world.rank == 0 else groups[::-1])]
    for work in works:
        work.wait()
    assert a.eq(world.size).all()
    assert b.eq(world.size).all()


def subgroups(world: World) -> None:
    """Overlapping groups; only members take part; ranks inside a group are the group's."""
    n, r = world.size, world.rank
    pairs = [dist.new_group([p, (p + 1) % n]) for p in range(n)]
    for p, group in enumerate(pairs):
        if r in (p, (p + 1) % n):
            x = torch.tensor([float(r + 1)])
            dist.all_reduce(x, group=group)
            assert x.item() == p + 1 + (p + 1) % n + 1
            y = torch.tensor([float(r)])
            dist.broadcast(y, src=p, group=group)
            assert y.item() == p
    odd = dist.new_group([p for p in range(n) if p % 2], use_local_synchronization=True) if r % 2 else None
    if odd is not None:
        x = torch.ones(1)
        dist.all_reduce(x, group=odd)
        assert x.item() == n // 2
        dist.destroy_process_group(odd)
    alone = dist.new_group([r], use_local_synchronization=True)
    x = torch.full((3,), float(r))
    dist.all_reduce(x, group=alone)
    dist.barrier(group=alone)
    assert x.eq(r).all()
    half = dist.group.WORLD.split_group([0, 1], group_name="half")
    assert (half is not None) == (r in (0, 1))
    if half is not None:
        assert (half.rank(), half.size(), half.group_name) == (r, 2, "half")
        half.allreduce([x]).wait()
        assert x.eq(1).all()


def a_group_is_made_while_work_is_under_way(world: World) -> None:
    """Rank 0 goes on to make a group; the others first wait for a sum that rank 0 has only enqueued."""
    x = torch.ones(300_000, dtype=torch.bfloat16)
    work = dist.all_reduce(x, async_op=True)
    if world.rank != 0:
        work.wait()
    group = dist.new_group()
    work.wait()
    assert x.eq(world.size).all()
    dist.barrier(group=group)


def two_threads(world: World) -> None:
    """A second thread with a group of its own, while the main thread waits for it on one rank only."""
    mine, other = dist.new_group(), dist.new_group()
    totals: list[float] = []

    def side() -> None:
        for _ in range(50):
            x = torch.ones(10)
            dist.all_reduce(x, group=other)
            totals.append(x[0].item())

    thread = threading.Thread(target=side)
    thread.start()
    if world.rank == 1:
        thread.join()
    x = torch.ones(100_000)
    dist.all_reduce(x, group=mine)
    thread.join()
    assert totals == [float(world.size)] * 50


def work_objects(world: World) -> None:
    """wait, is_completed, is_success, exception, result, futures and their callbacks, time limits."""
    n = world.size
    x = torch.ones(5)
    if world.rank == 0:
        held = dist.all_reduce(x, async_op=True)
        assert not held.is_completed()
        assert not held.is_success()
        with pytest.raises(RuntimeError, match=r"allreduce: not done after 0.2 s"):
            held.wait(timedelta(seconds=0.2))
        dist.send(torch.ones(1), 1)
    else:
        if world.rank == 1:
            dist.recv(torch.empty(1), 0)
        held = dist.all_reduce(x, async_op=True)
    future = held.get_future()
    doubled = future.then(lambda done: done.value()[0] * 2)
    assert held.wait() is True
    assert held.is_completed()
    assert held.is_success()
    assert held.exception() is None
    assert held.result()[0] is x
    held.synchronize()
    assert doubled.wait().eq(2 * n).all()
    assert held.get_future() is future
    called = threading.Event()
    future.add_done_callback(lambda done: called.set())  # after the end: at once
    assert called.wait(5)

    def nested(done: torch.futures.Future) -> float:
        y = done.value()[0].clone()
        dist.all_reduce(y)  # waits for a collective inside of a callback
        return float(y[0])

    futures = [dist.all_reduce(torch.ones(1), async_op=True).get_future() for _ in range(1)]
    assert futures[0].then(nested).wait() == n * n
    late = dist.all_reduce(torch.ones(1), async_op=True)
    late.wait()
    assert late.get_future().wait()[0].item() == n
    assert late.get_future().then(lambda done: 7).wait() == 7


def errors_reach_the_waiter(world: World) -> None:
    """A message longer than its buffer: an MPI error, on the receiver's Work and Future."""
    if world.rank == 0:
        dist.send(torch.ones(100), 1)
    elif world.rank == 1:
        work = dist.irecv(torch.empty(10), 0)
        future = work.get_future()
        for wait in (work.wait, future.wait):
            with pytest.raises(RuntimeError, match=r"recv from rank 0, tag 0.*truncated"):
                wait()
        assert work.is_completed()
        assert not work.is_success()
        assert work.exception() is not None
    x = torch.ones(1)
    dist.all_reduce(x)
    assert x.item() == world.size


def monitored(world: World) -> None:
    group = dist.group.WORLD
    group.monitored_barrier(timedelta(seconds=60))
    if world.rank != 1:
        complaint = r"ranks \[1\] have not come" if world.rank == 0 else "rank 0 has not answered"
        with pytest.raises(RuntimeError, match=complaint):
            group.monitored_barrier(timedelta(seconds=1.0), wait_all_ranks=True)
        with pytest.raises(RuntimeError, match=complaint):
            group.monitored_barrier(timedelta(seconds=0.1))
    dist.barrier()


WALKS = (
    sends_before_receives, batched, messages_keep_their_order, from_anybody, a_message_overtakes_a_collective,
    collectives_keep_their_order, groups_do_not_wait_for_each_other, subgroups,
    a_group_is_made_while_work_is_under_way, two_threads, work_objects, errors_reach_the_waiter, monitored,
)  # fmt: skip


def all_walks(world: World) -> int:
    for walk in WALKS:
        walk(world)
        dist.barrier()
    dist.group.WORLD._wait_for_pending_works()
    return dist.group.WORLD._get_sequence_number_for_group()
