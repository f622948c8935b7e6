"""Latency of collectives by size, over mpi4py or gloo, and how much of one hides behind compute.

mpirun -n 2 python benchmarks/collectives.py                      # a Markdown table
mpirun -n 2 python benchmarks/collectives.py --backend gloo
mpirun -n 2 python benchmarks/collectives.py --overlap            # all-reduce beside matrix products
mpirun -n 2 python benchmarks/collectives.py --direct             # mpi4py alone, without torch's process group
mpirun -n 4 python benchmarks/collectives.py --two-levels         # on pretended nodes of two ranks: times and bytes
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist

import pyjpllm.distributed as pd
from pyjpllm.distributed import compat, hierarchy
from pyjpllm.distributed.transport import Communicator

SIZES = (1 << 10, 1 << 16, 1 << 20, 1 << 24, 1 << 26)


def time_us(call: Callable[[], object], repeats: int) -> float:
    """The lower quartile over ``repeats`` of the slowest rank's time, in microseconds: other programs only add."""
    times = []
    for _ in range(repeats):
        dist.barrier()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    slowest = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return lower_quartile(slowest.tolist()) * 1e6


def lower_quartile(times: list[float]) -> float:
    return statistics.quantiles(times, n=4)[0]


def cases(nbytes: int) -> dict[str, Callable[[], object]]:
    """The calls to time on ``nbytes`` of data a rank."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    f32 = torch.ones(nbytes // 4)
    f16 = torch.ones(nbytes // 2, dtype=torch.bfloat16)
    gathered, piece = torch.empty(nbytes // 4), torch.ones(nbytes // 4 // ranks)
    calls: dict[str, Callable[[], object]] = {
        "all-reduce FP32": lambda: dist.all_reduce(f32),
        "all-reduce BF16": lambda: dist.all_reduce(f16),
        "all-gather FP32": lambda: compat.all_gather_single(gathered, piece),
        "reduce-scatter FP32": lambda: compat.reduce_scatter_single(piece, f32),
        "all-to-all FP32": lambda: dist.all_to_all_single(gathered, f32),
        "broadcast FP32": lambda: dist.broadcast(f32, 0),
    }
    if rank == 0:
        calls["send, receive"] = lambda: dist.send(f32, 1)
    elif rank == 1:
        calls["send, receive"] = lambda: dist.recv(gathered, 0)
    else:
        calls["send, receive"] = lambda: None
    return calls


def table(backend: str) -> list[str]:
    """Rows of a Markdown table: microseconds by call and size."""
    columns = [_size(nbytes) for nbytes in SIZES]
    times: dict[str, list[str]] = {}
    for nbytes in SIZES:
        repeats = max(5, min(300, int(3e8 / nbytes)))
        for name, call in cases(nbytes).items():
            call()
            times.setdefault(name, []).append(_time(time_us(call, repeats)))
    head = f"| {backend}, {dist.get_world_size()} ranks | " + " | ".join(columns) + " |"
    return [head, "|---" * (len(SIZES) + 1) + "|", *(f"| {n} | " + " | ".join(v) + " |" for n, v in times.items())]


def direct_table() -> list[str]:
    """MPI_Allreduce and MPI_Iallreduce from Python, for comparison. The process group must be idle meanwhile."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    rows: dict[str, list[str]] = {"MPI_Allreduce FP32": [], "MPI_Iallreduce FP32": []}
    for nbytes in SIZES:
        x = torch.ones(nbytes // 4).numpy()
        for name, call in (
            ("MPI_Allreduce FP32", lambda x=x: world.Allreduce(MPI.IN_PLACE, x)),
            ("MPI_Iallreduce FP32", lambda x=x: world.Iallreduce(MPI.IN_PLACE, x).Wait()),
        ):
            times = []
            for _ in range(max(5, min(300, int(3e8 / nbytes)))):
                world.Barrier()
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            rows[name].append(_time(world.allreduce(lower_quartile(times), MPI.MAX) * 1e6))
    head = f"| mpi4py alone, {world.size} ranks | " + " | ".join(_size(nbytes) for nbytes in SIZES) + " |"
    return [head, "|---" * (len(SIZES) + 1) + "|", *(f"| {n} | " + " | ".join(v) + " |" for n, v in rows.items())]


def overlap() -> list[str]:
    """The part of an all-reduce that hides behind matrix products of about the same length."""
    rows = ["| all-reduce | alone | products alone | together | hidden |", "|---|---|---|---|---|"]
    a = torch.randn(512, 512)
    for nbytes in SIZES[2:]:
        x = torch.ones(nbytes // 4)
        alone = time_us(lambda x=x: dist.all_reduce(x), 9)
        one = time_us(lambda: a @ a, 9)
        count = max(1, round(alone / one))

        def products(count: int = count) -> None:
            for _ in range(count):
                torch.mm(a, a)

        def both(x: torch.Tensor = x, count: int = count) -> None:
            work = dist.all_reduce(x, async_op=True)
            products(count)
            work.wait()

        compute, together = time_us(products, 9), time_us(both, 9)
        hidden = (alone + compute - together) / min(alone, compute)
        times = " | ".join(_time(t) for t in (alone, compute, together))
        rows.append(f"| {_size(nbytes)} | {times} | {hidden:.2f} |")
    return rows


@contextlib.contextmanager
def bytes_across(width: int) -> Iterator[list[int]]:
    """What this rank sends to other nodes, in messages between two ranks, is added to the list's one number."""
    count = [0]
    originals = Communicator.isend, Communicator.isend_as_one

    def counting(send: Callable[..., list[object]]) -> Callable[..., list[object]]:
        def call(c: Communicator, x: torch.Tensor | Sequence[torch.Tensor], rank: int) -> list[object]:
            if rank // width != c.rank // width:
                count[0] += sum(y.numel() * y.element_size() for y in ([x] if isinstance(x, torch.Tensor) else x))
            return send(c, x, rank)

        return call

    Communicator.isend, Communicator.isend_as_one = map(counting, originals)  # type: ignore[method-assign]
    try:
        yield count
    finally:
        Communicator.isend, Communicator.isend_as_one = originals  # type: ignore[method-assign]


def two_levels(width: int) -> list[str]:
    """Nodes of ``width`` ranks against none: microseconds, and bytes that leave a rank's node. The nodes are this
    machine, whose messages cost the same everywhere: only the bytes say something about a network."""
    two, flat = dist.group.WORLD, dist.new_group()
    assert two is not None
    flat._c.per_node = flat.size()
    rows = [
        "| call | size | flat | two levels | bytes to other nodes, flat | two levels |",
        "|---|---|---|---|---|---|",
    ]
    for nbytes in SIZES[2:-1]:
        f32, f16 = torch.ones(nbytes // 4), torch.ones(nbytes // 2, dtype=torch.bfloat16)
        piece = torch.ones(nbytes // 4 // two.size())
        calls: dict[str, Callable[[dist.ProcessGroup], object]] = {
            "all-reduce FP32": lambda group, x=f32: dist.all_reduce(x, group=group),
            "all-reduce BF16": lambda group, x=f16: dist.all_reduce(x, group=group),
            "reduce-scatter FP32": lambda group, x=f32, y=piece: compat.reduce_scatter_single(y, x, group=group),
            "all-gather FP32": lambda group, x=f32, y=piece: compat.all_gather_single(x, y, group=group),
        }
        for name, call in calls.items():
            times, sent = [], []
            for group in (flat, two):
                with bytes_across(width) as count:
                    call(group)
                own = name == "all-gather FP32" and group is flat
                sent.append("MPI's own" if own else f"{count[0]:,}")
                times.append(
                    _time(time_us(lambda call=call, group=group: call(group), max(5, min(20, int(1e8 / nbytes)))))
                )
            rows.append(f"| {name} | {_size(nbytes)} | {' | '.join(times)} | {' | '.join(sent)} |")
    return rows


def _size(nbytes: int) -> str:
    return f"{nbytes >> 20} MB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KB"


def _time(us: float) -> str:
    return f"{us:.1f} us" if us < 100 else f"{us:.0f} us" if us < 1000 else f"{us / 1000:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="mpi4py", choices=("mpi4py", "gloo"))
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--two-levels", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.two_levels:
        os.environ[hierarchy.PRETENDED] = "2"
    world = pd.init(arguments.backend)
    if world.size == 1:
        raise SystemExit("start with: mpirun -n 2 python benchmarks/collectives.py")
    if arguments.two_levels:
        if world.size % 2 or world.size < 4 or arguments.backend != "mpi4py":
            raise SystemExit("start with: mpirun -n 4 python benchmarks/collectives.py --two-levels")
        rows = two_levels(2)
    else:
        rows = direct_table() if arguments.direct else overlap() if arguments.overlap else table(arguments.backend)
    if world.rank == 0:
        print("\n".join(rows))
    pd.finalize()


if __name__ == "__main__":
    main()
