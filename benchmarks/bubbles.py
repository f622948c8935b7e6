"""The bubble of each pipeline schedule, measured beside its closed form.

    python -m benchmarks.bubbles [--ranks 4] [--micro-batches 8 16] [--milliseconds 30] [--write PAGE]

Real ranks over MPI run the executor; what they compute is sleep: F, B and W of a rank's whole part take the same given
time, so that a few cores carry any number of ranks. Several steps follow each other. "one step" is the idle share from
the first start to the last end of a step at whose beginning all ranks have waited for each other; "between steps" the
idle share per step where they have not.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ranks import on_ranks, write_between
from pyjpllm import distributed
from pyjpllm.distributed import collectives, make_mesh
from pyjpllm.parallel.deferred import WeightGradients
from pyjpllm.parallel.pipeline import (
    NAMES,
    Costs,
    Event,
    Schedule,
    named,
    one_step_bubble,
    run,
    search,
    simulate,
    steady_bubble,
    straight,
)

STEPS = 4


class _Sleep(torch.autograd.Function):
    """Takes its time in forward and in backward, and leaves the weights' to the queue if there is one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float, queue: WeightGradients | None) -> Tensor:
        ctx.seconds, ctx.queue = seconds, queue
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        seconds = ctx.seconds
        time.sleep(seconds)
        if ctx.queue is None:
            time.sleep(seconds)
        else:
            ctx.queue.add(lambda: time.sleep(seconds))
        return dy, None, None


class Sleepers:
    """Chunks that sleep."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def forward(self, chunk: int, micro_batch: int, x: Tensor | None) -> Tensor:
        if x is None:
            x = torch.zeros(1, requires_grad=True)
        out: Tensor = _Sleep.apply(x, self.seconds, WeightGradients.current())  # type: ignore[no-untyped-call]
        return out

    def receive_into(self, micro_batch: int) -> Tensor:
        return torch.empty(1)


def searched(ranks: int, micro_batches: int) -> Schedule:
    """One chunk a rank within twice the memory of 1F1B: what the search makes of it."""
    return search(straight(ranks), micro_batches, Costs.even(ranks), 2.0 * ranks, steady=True)


def idle(rows: list[list[Event]], span: float, steps: int) -> float:
    """The idle share of ``span`` seconds a step."""
    busy = sum(event.end - event.start for row in rows for event in row) / steps
    return 1 - busy / (span * len(rows))


def measure(schedule: Schedule, seconds: float, mesh: distributed.Mesh) -> tuple[float, float] | None:
    """(one step, between steps), on rank 0."""
    group = mesh.group("pp")
    stages = Sleepers(seconds * schedule.ranks / schedule.chunks)
    run(schedule, stages, group)  # connections are made at the first message
    alone: list[Event] = []
    collectives.barrier(group)
    run(schedule, stages, group, record=alone)
    many: list[list[Event]] = [[] for _ in range(STEPS)]
    collectives.barrier(group)
    for record in many:
        run(schedule, stages, group, record=record)
    gathered = collectives.gather_objects((alone, many), group)
    if gathered is None:
        return None
    first = [row for row, _ in gathered]
    length = max(row[-1].end for row in first) - min(row[0].start for row in first)
    ends = [max(steps[index][-1].end for _, steps in gathered) for index in range(STEPS)]
    last = [steps[-1] for _, steps in gathered]
    return idle(first, length, 1), idle(last, ends[-1] - ends[-2], 1)


def rank_main(ranks: int, counts: list[int], seconds: float, out: Path) -> None:
    """On each rank: all schedules; rank 0 writes what was found."""
    mesh = make_mesh(distributed.init("mpi4py"), dp=1, pp=ranks)
    rows = []
    for count in counts:
        for name in (*NAMES, "searched"):
            schedule = searched(ranks, count) if name == "searched" else named(name, ranks, count)
            found = measure(schedule, seconds, mesh)
            costs = Costs.even(schedule.chunks)
            form = one_step_bubble(name, ranks, count)
            form = simulate(schedule, costs).bubble if form is None else form
            if found is not None:
                rows.append([name, count, form, found[0], steady_bubble(schedule, costs), found[1]])
    if mesh.rank("pp") == 0:
        out.write_text(json.dumps(rows))


def table(rows: list[list[Any]], ranks: int, milliseconds: float) -> str:
    """Markdown."""
    lines = [
        f"{ranks} ranks, {milliseconds:g} ms each for F, B and W of a rank's part.",
        "",
        "| schedule | micro-batches | one step, closed form | measured | between steps, predicted | measured |",
        "|---|---|---|---|---|---|",
    ]
    for name, count, form, step, steady, between in rows:
        lines.append(f"| `{name}` | {count} | {form:.1%} | {step:.1%} | {steady:.1%} | {between:.1%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bubbles", description=str(__doc__).splitlines()[0])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--milliseconds", type=float, default=30.0, help="of F, of B and of W of a rank's whole part")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    parser.add_argument("--rank-out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_out is not None:
        rank_main(options.ranks, options.micro_batches, options.milliseconds / 1000, options.rank_out)
        return
    arguments = ["--ranks", str(options.ranks), "--milliseconds", str(options.milliseconds)]
    arguments += ["--micro-batches", *map(str, options.micro_batches)]
    text = table(on_ranks("benchmarks.bubbles", options.ranks, *arguments), options.ranks, options.milliseconds)
    print(text)
    if options.write is not None:
        write_between(options.write, "bubbles", text)


if __name__ == "__main__":
    main()
