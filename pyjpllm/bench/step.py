"""One whole training step, ours beside Hugging Face transformers: speed, losses, memory, and where the time goes.

All in one run on one pinned core, the sides taking turns, in CPU time, best of several: on a machine that others use,
wall time varies twofold, and even the clock differs from minute to minute.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from pyjpllm.bench.memory import peak_bytes
from pyjpllm.bench.probe import Peak, cpu_seconds, processor
from pyjpllm.bench.scaling import wall_seconds
from pyjpllm.bench.sides import Side, Work, make_side
from pyjpllm.errors import UserError
from pyjpllm.model import count_parameters, flops_per_token

# How far the sides' losses may be apart. BF16 has 8 bits, and autocast rounds elsewhere than BF16 weights do.
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
PROFILED_STEPS = 3


@dataclass
class Row:
    """One side's result."""

    side: str
    name: str
    cpu_seconds: list[float] = field(default_factory=list)
    """Of each timed step."""
    losses: list[float] = field(default_factory=list)
    """Before each step, the untimed first one among them."""
    tokens_per_second: float = 0.0
    """Of CPU time, in the best step."""
    mfu: float = 0.0
    """Model FLOP/s in the best step, as a part of the core's peak in the step's type."""
    peak_bytes: int | None = None
    """The most memory beyond the libraries, in a process of its own; None when it was not measured."""
    operations: list[tuple[str, float, int]] = field(default_factory=list)
    """(operation, part of the step's CPU time, calls), largest first."""


@dataclass
class StepBench:
    """Everything that was measured."""

    work: Work
    parameters: int
    flops_per_token: float
    peak_flops: float
    peak_how: str
    processor: str
    torch: str
    rows: list[Row]
    losses_agree: bool | None
    """None when there is only one side."""
    wall_seconds: dict[int, float] = field(default_factory=dict)
    """Of our first side's best step, by cores; empty when only one core was asked for."""

    def scaling(self) -> float | None:
        """How many times faster, by the wall clock, our first side is on all the cores asked for than on one."""
        return self.wall_seconds[1] / self.wall_seconds[max(self.wall_seconds)] if self.wall_seconds else None

    def ratio(self) -> float | None:
        """How many times faster our first side is than the best of the others; None without others."""
        ours = [row for row in self.rows if not row.side.startswith("transformers")]
        theirs = [row for row in self.rows if row.side.startswith("transformers")]
        if not ours or not theirs:
            return None
        return ours[0].tokens_per_second / max(row.tokens_per_second for row in theirs)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        work = asdict(self.work) | {"model": self.work.model.model_dump()}
        rows = [asdict(row) for row in self.rows]
        return {**self.__dict__, "work": work, "rows": rows, "ratio": self.ratio(), "scaling": self.scaling()}


def operation_shares(step: Callable[[], object], top: int = 14) -> list[tuple[str, float, int]]:
    """Where a step's time goes by operation (each without what it calls), the largest first, then the rest.

    The profiler has wall time: each operation's is the least of several steps, which leaves out most of what others
    on the machine have caused.
    """
    from torch.profiler import ProfilerActivity, profile

    least: dict[str, tuple[float, int]] = {}
    for _ in range(PROFILED_STEPS):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            step()
        for event in profiler.key_averages():
            seconds, count = float(event.self_cpu_time_total), int(event.count)
            least[event.key] = (min(seconds, least.get(event.key, (math.inf, 0))[0]), count)
    total = sum(seconds for seconds, _ in least.values())
    events = sorted(least.items(), key=lambda event: -event[1][0])
    shares = [(name, seconds / total, count) for name, (seconds, count) in events[:top]]
    rest = [event for _, event in events[top:]]
    if rest:
        shares.append((f"{len(rest)} others", sum(s for s, _ in rest) / total, sum(n for _, n in rest)))
    return shares


def run_step_bench(
    work: Work,
    sides: Sequence[str],
    *,
    repeats: int = 5,
    core: int = 0,
    memory: bool = True,
    profile: bool = True,
    threads: int = 1,
    cores: Sequence[int] = (),
    say: Callable[[str], None] = lambda line: None,
) -> StepBench:
    """Measure ``sides`` (names as in ``make_side``) on ``work``; this process must be pinned already.

    Each side takes one untimed step first; then they take turns ``repeats`` times, in changing order. With ``threads``
    above 1 our first side is timed by the wall clock on so many of ``cores`` as well.
    """
    if repeats < 1:
        raise UserError(f"--repeats {repeats} is not positive")
    rows = [Row(side, "") for side in sides]
    if memory:  # before anything large is in this process
        for row in rows:
            say(f"memory of {row.side} ...")
            row.peak_bytes = peak_bytes(row.side, work, core)
    wall: dict[int, float] = {}
    if threads > 1:
        say(f"wall time of {sides[0]} on 1 and {threads} cores ...")
        wall = wall_seconds(sides[0], work, cores, threads, repeats=repeats)
    subjects = [make_side(side, work) for side in sides]
    peak = Peak(dtype=work.dtype)
    for row, subject in zip(rows, subjects, strict=True):
        row.name = subject.name
        say(f"first step of {subject.name} ...")
        row.losses.append(subject.step())
    for turn in range(repeats):
        peak.measure()
        pairs = list(zip(rows, subjects, strict=True))
        for row, subject in pairs if turn % 2 == 0 else reversed(pairs):
            _timed_step(row, subject)
            say(f"turn {turn + 1} of {repeats}: {subject.name} {row.cpu_seconds[-1]:.3f} s of CPU time")
    peak.measure()
    if profile:
        for row, subject in zip(rows, subjects, strict=True):
            row.operations = operation_shares(subject.step)
    flops = flops_per_token(work.model, work.sequence)
    for row in rows:
        row.tokens_per_second = work.tokens / min(row.cpu_seconds)
        row.mfu = row.tokens_per_second * flops / peak.flops
    return StepBench(
        work=work,
        parameters=count_parameters(work.model),
        flops_per_token=flops,
        peak_flops=peak.flops,
        peak_how=peak.how,
        processor=f"{processor()}, {platform.machine()}",
        torch=torch.__version__,
        rows=rows,
        losses_agree=losses_agree([row.losses for row in rows], LOSS_TOLERANCE[work.dtype]),
        wall_seconds=wall,
    )


def _timed_step(row: Row, subject: Side) -> None:
    losses: list[float] = []
    row.cpu_seconds.append(cpu_seconds(lambda: losses.append(subject.step())))
    row.losses += losses


def losses_agree(losses: Sequence[Sequence[float]], tolerance: float) -> bool | None:
    """Whether all sides had the same loss before every step, to ``tolerance`` of it; None for fewer than two."""
    if len(losses) < 2:
        return None
    return all(max(at) - min(at) <= tolerance * abs(at[0]) for at in zip(*losses, strict=True))


def table(bench: StepBench) -> str:
    """The result as Markdown, which is readable on a terminal as well."""
    model, work = bench.work.model, bench.work
    lines = [
        f"{bench.parameters / 1e6:.1f}M parameters: hidden {model.hidden_size}, {model.num_layers} layers, "
        f"{model.num_heads} heads ({model.num_kv_heads} kv), FFN {model.intermediate_size}, "
        f"vocabulary {model.vocab_size:,}; {work.batch} x {work.sequence} tokens, {work.dtype.upper()}",
        f"{bench.processor}, torch {bench.torch}; peak {bench.peak_flops / 1e9:.0f} GF/s ({bench.peak_how})",
        "",
        "| one training step | tokens/s | CPU seconds, best (all) | MFU | peak memory | loss before steps |",
        "|---|---|---|---|---|---|",
    ]
    for row in bench.rows:
        seconds = f"{min(row.cpu_seconds):.2f} ({', '.join(f'{s:.2f}' for s in row.cpu_seconds)})"
        memory = "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f} GiB"
        losses = ", ".join(f"{loss:.5f}" for loss in row.losses)
        lines.append(
            f"| {row.name} | {row.tokens_per_second:.0f} | {seconds} | {100 * row.mfu:.1f}% | {memory} | {losses} |"
        )
    ratio = bench.ratio()
    if ratio is not None:
        lines += ["", f"{bench.rows[0].name}: {ratio:.3f} times the speed of transformers."]
    if bench.wall_seconds:
        times = ", ".join(f"{seconds:.2f} s on {n}" for n, seconds in bench.wall_seconds.items())
        lines.append(f"{bench.rows[0].name}, wall time a step by cores: {times}; {bench.scaling():.2f} times faster.")
    if bench.losses_agree is not None:
        tolerance = LOSS_TOLERANCE[work.dtype]
        lines.append(
            f"The losses agree within {tolerance:g} of their value."
            if bench.losses_agree
            else f"THE LOSSES DIFFER by more than {tolerance:g} of their value: the sides did not do the same work."
        )
    for row in bench.rows:
        if row.operations:
            lines += ["", f"| {row.name}: operation | share | calls |", "|---|---|---|"]
            lines += [f"| {name} | {100 * share:.1f}% | {calls} |" for name, share, calls in row.operations]
    return "\n".join(lines)
