"""How much of communication hides behind compute where its thread has a core, and what it costs where it has none.

    python -m benchmarks.overlap [--repeats 15] [--write docs/performance.md]

Two ranks on two cores. First both compute on core 0 and their communication threads have core 1: a step with everything
in it is held against the same step without communication and against its communication alone,
hidden = 1 - (whole - compute) / communication. Then each rank has a core to itself and communication has none: the step
is held against one that calls MPI directly and blocks, from mpi4py, at the end of backward or where a message is needed
(sums by MPI_Allreduce or as an exchange, added and gathered, whichever is faster). The ways take turns; quoted are the
medians of rounds, of times and of what the times of a round say together: a machine's speed drifts between rounds.

Gradients: forward and backward of a small transformer, its gradients summed over the two ranks in buckets. Pipeline:
two stages, real linear layers with B and W apart, whose messages are large for what they compute, so that there is
something to hide.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.ranks import on_ranks, write_between
from pyjpllm import distributed
from pyjpllm.config.schema import ModelConfig
from pyjpllm.distributed import collectives, make_mesh
from pyjpllm.distributed.cores import VARIABLE
from pyjpllm.model import Transformer, initialize
from pyjpllm.parallel import DataParallel, FlatParameters
from pyjpllm.parallel.deferred import linear
from pyjpllm.parallel.pipeline import executor, named, run

SHAPE = {
    "hidden_size": 512,
    "num_layers": 6,
    "num_heads": 8,
    "num_kv_heads": 8,
    "head_dim": 64,
    "intermediate_size": 1408,
    "vocab_size": 2048,
}
TOKENS = 192
BUCKET = 10 << 20
MICRO_BATCHES, WIDTH, ROWS = 8, 512, 2048

Way = Callable[[], None]


def digest(tensors: Iterator[Tensor]) -> str:
    """Of their bits."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


class Gradients:
    """A transformer's forward and backward on this rank's tokens, and sums of its gradients."""

    def __init__(self, mesh: distributed.Mesh) -> None:
        self.mesh = mesh
        self.model = Transformer(ModelConfig.model_validate(SHAPE), dtype=torch.float32)
        initialize(self.model, 1)
        self.flat = FlatParameters(self.model.named_parameters(), bucket_bytes=BUCKET)
        self.summed = DataParallel(self.flat, mesh)
        generator = torch.Generator().manual_seed(mesh.rank("dp"))
        self.tokens = torch.randint(0, SHAPE["vocab_size"], (1, TOKENS + 1), generator=generator)
        world = collectives.broadcast_object(None, mesh.group("dp"))  # connections are made at the first message
        assert world is None

    def _backward(self) -> None:
        (self.model.loss(self.tokens[:, :-1], self.tokens[:, 1:]).loss / TOKENS).backward()

    def whole(self) -> None:
        self.flat.zero_grad()
        with self.summed.accumulate(last=True):
            self._backward()
        self.summed.finish()

    def compute(self) -> None:
        self.flat.zero_grad()
        with mock.patch("pyjpllm.parallel.data.GradientSum", _Nothing):
            with self.summed.accumulate(last=True):
                self._backward()
            self.summed.finish()

    def communication(self) -> None:
        with self.summed.accumulate(last=True):
            pass
        self.summed.finish()

    def blocking(self, exchange: bool) -> None:
        """As ``whole``, by calls of mpi4py that block."""
        from mpi4py import MPI

        self.compute()
        for bucket in self.flat.buckets:
            if not exchange:
                MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, bucket.grad.numpy())
                continue
            size = -(-bucket.grad.numel() // 64) * 32  # two pieces, whole cache lines
            mine, other = (slice(0, size), slice(size, None))[:: 1 if self.mesh.rank("dp") == 0 else -1]
            got = torch.empty_like(bucket.grad[mine])
            peer = 1 - self.mesh.rank("dp")
            MPI.COMM_WORLD.Sendrecv(bucket.grad[other].numpy(), peer, recvbuf=got.numpy(), source=peer)
            bucket.grad[mine] += got
            MPI.COMM_WORLD.Sendrecv(bucket.grad[mine].numpy(), peer, recvbuf=bucket.grad[other].numpy(), source=peer)

    def result(self) -> str:
        return digest(group.grad for group in self.flat.groups)


class _Nothing:
    """A sum that is not taken."""

    def __init__(self, bucket: Any, *_: Any) -> None:
        self.bucket = bucket

    def wait(self) -> None:
        pass


class _Pass(torch.autograd.Function):
    """Its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


class Stages:
    """Each chunk one linear layer, or nothing."""

    def __init__(self, weights: dict[int, Tensor], chunks: int, empty: bool) -> None:
        self.weights, self.chunks, self.empty = weights, chunks, empty
        self.first = torch.ones(ROWS, WIDTH)

    def forward(self, chunk: int, micro_batch: int, x: Tensor | None) -> Tensor:
        if x is None:
            x = self.first.clone().requires_grad_()
        out: Tensor = _Pass.apply(x) if self.empty else linear(x, self.weights[chunk])  # type: ignore[no-untyped-call]
        return out.sum() / (micro_batch + 1) if chunk + 1 == self.chunks else out

    def receive_into(self, micro_batch: int) -> Tensor:
        return torch.empty(ROWS, WIDTH)


class _Local:
    """In place of torch.distributed: messages that are there at once, with nothing in them."""

    @staticmethod
    def isend(data: Tensor, **_: Any) -> _Local:
        return _Local()

    @staticmethod
    def irecv(data: Tensor, **_: Any) -> _Local:
        data.fill_(1e-3)
        return _Local()

    def wait(self) -> None:
        pass

    def is_completed(self) -> bool:
        return True


class _Direct:
    """In place of torch.distributed: mpi4py's own calls, received where the message is needed."""

    def __init__(self, finish: Callable[[], None], is_completed: Callable[[], bool]) -> None:
        self.wait, self.is_completed = finish, is_completed

    @staticmethod
    def isend(data: Tensor, group_dst: int, tag: int, **_: Any) -> _Direct:
        from mpi4py import MPI

        request = MPI.COMM_WORLD.Isend(data.numpy(), group_dst, tag)
        return _Direct(request.Wait, request.Test)

    @staticmethod
    def irecv(data: Tensor, group_src: int, tag: int, **_: Any) -> _Direct:
        from mpi4py import MPI

        return _Direct(lambda: MPI.COMM_WORLD.Recv(data.numpy(), group_src, tag), lambda: False)


class Pipe:
    """A schedule over two ranks."""

    def __init__(self, mesh: distributed.Mesh, name: str) -> None:
        self.group, self.schedule = mesh.group("pp"), named(name, 2, MICRO_BATCHES)
        generator = torch.Generator().manual_seed(7)
        self.weights = {
            chunk: (torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5).requires_grad_()
            for chunk in range(self.schedule.chunks)
        }
        self.mine = self.schedule.chunks_of(mesh.rank("pp"))

    def _run(self, empty: bool = False) -> None:
        for weight in self.weights.values():
            weight.grad = None
        run(self.schedule, Stages(self.weights, self.schedule.chunks, empty), self.group)

    def whole(self) -> None:
        self._run()

    def compute(self) -> None:
        with mock.patch.object(executor, "dist", _Local):
            self._run()

    def communication(self) -> None:
        self._run(empty=True)

    def blocking(self, exchange: bool) -> None:
        with mock.patch.object(executor, "dist", _Direct):
            self._run()

    def result(self) -> str:
        return digest(self.weights[chunk].grad for chunk in self.mine)  # type: ignore[misc]


def rounds(ways: dict[str, Way], mesh: distributed.Mesh, repeats: int) -> dict[str, list[float]]:
    """Seconds of the slower rank, of every way in every round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            collectives.barrier(mesh.world_group)
            start = time.perf_counter()
            way()
            took = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
            collectives.all_reduce(took, mesh.world_group, "max")
            if turn:  # the first one warms up
                times[name].append(float(took))
    return times


@contextmanager
def one_core_each(rank: int, apart: bool) -> Iterator[None]:
    """Where communication has no core of its own: this rank on the core of its number, threads that are to come too."""
    if apart:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {rank})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def rank_main(apart: bool, repeats: int, out: Path) -> None:
    """On each rank; rank 0 writes seconds by work and way, and all ranks' results by work and way."""
    torch.set_num_threads(1)
    launch = distributed.detect()
    assert launch is not None
    with one_core_each(launch.rank, apart):
        world = distributed.init("mpi4py", deterministic=True)
        works: dict[str, Any] = {"gradients": Gradients(make_mesh(world, dp=2))}
        pipes = make_mesh(world, dp=1, pp=2)
        works |= {f"pipeline, {name}": Pipe(pipes, name) for name in ("1f1b", "zb-v")}
        found: dict[str, Any] = {}
        for name, work in works.items():
            ways: dict[str, Way] = {"whole": work.whole}
            if apart:
                ways |= {"compute": work.compute, "communication": work.communication}
            else:
                ways |= {"blocking": lambda work=work: work.blocking(False)}
                if isinstance(work, Gradients):
                    ways |= {"blocking, exchanged": lambda work=work: work.blocking(True)}
            times = rounds(ways, pipes, repeats)
            results = {}
            for way in ("whole", *(way for way in ways if way.startswith("blocking"))):
                ways[way]()
                results[way] = collectives.gather_objects(work.result(), pipes.world_group)
            found[name] = {"times": times, "results": results}
    if world.rank == 0:
        out.write_text(json.dumps(found))


def table(apart: dict[str, Any], shared: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "With a core for communication threads, another one for the compute of both ranks:",
        "",
        "| what | compute, ms | communication alone | together | hidden |",
        "|---|---|---|---|---|",
    ]
    for name, found in apart.items():
        rounds_of = [found["times"][way] for way in ("compute", "communication", "whole")]
        cells = " | ".join(f"{statistics.median(seconds) * 1e3:.1f}" for seconds in rounds_of)
        alone = statistics.median(rounds_of[1])
        left = statistics.median(whole - compute for compute, _, whole in zip(*rounds_of, strict=True))
        lines.append(f"| {name} | {cells} | {1 - left / alone:.0%} |")
    lines += [
        "",
        "Without one, each rank on a core of its own, beside calls that block:",
        "",
        "| what | ours, ms | blocking | ours / blocking | same bits |",
        "|---|---|---|---|---|",
    ]
    for name, found in shared.items():
        blocking = dict(found["times"])
        ours = blocking.pop("whole")
        blocked = ", ".join(f"{statistics.median(seconds) * 1e3:.1f} ({way})" for way, seconds in blocking.items())
        ratio = max(  # beside the faster one
            statistics.median(mine / theirs for mine, theirs in zip(ours, seconds, strict=True))
            for seconds in blocking.values()
        )
        results = [*found["results"].values(), apart[name]["results"]["whole"]]
        same = "yes" if all(result == results[0] for result in results) else "NO"
        lines.append(f"| {name} | {statistics.median(ours) * 1e3:.1f} | {blocked} | {ratio:.3f} | {same} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overlap", description=str(__doc__).splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the marks of this page")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rank-out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_out is not None:
        rank_main(options.apart, options.repeats, options.rank_out)
        return
    repeats = ["--repeats", str(options.repeats)]
    os.environ[VARIABLE] = "1"
    apart = on_ranks("benchmarks.overlap", 2, "--apart", *repeats)
    os.environ[VARIABLE] = "none"
    shared = on_ranks("benchmarks.overlap", 2, *repeats)
    text = table(apart, shared)
    print(text)
    if options.write is not None:
        write_between(options.write, "overlap", text)


if __name__ == "__main__":
    main()
