"""Measures the cases: ours and torch by turns, beside the peaks of the same run."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from pyjpllm.bench.kernels import attention, experts, gemm, loss, memory
from pyjpllm.bench.kernels.case import DTYPES, TOLERANCE, Case, Missing, difference, result_bytes
from pyjpllm.bench.probe import Peaks, processor
from pyjpllm.bench.timing import extra_bytes, keep_memory, take_turns
from pyjpllm.errors import UserError, did_you_mean

ROUNDS, SECONDS = 10, 8.0
QUICK_ROUNDS, QUICK_SECONDS = 3, 1.0

OPS = (
    "gemm",
    "attention",
    "cross_entropy",
    "experts",
    "rms_norm",
    "layer_norm",
    "swiglu",
    "rotary",
    "embedding",
    "softmax",
    "cast",
    "adamw",
)


@dataclass
class Row:
    """One case's result on one instruction set."""

    op: str
    what: str
    shape: str
    dtype: str
    isa: str
    group: str
    unit: str = "GFLOP/s"
    missing: str | None = None
    """Why ours was not measured; None when it was."""
    rate: float = 0.0
    """In ``unit``."""
    share: float = 0.0
    """Of the peak or bandwidth in this run; filled in at the end, when the best of them is known."""
    seconds: float = 0.0
    torch_seconds: float | None = None
    bare_seconds: float | None = None
    extra_bytes: int | None = None
    torch_extra_bytes: int | None = None
    difference: float | None = None
    """From torch's result (or, where that is off, its result in FP32), relative, in the Frobenius norm."""
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times faster than torch."""
        return self.torch_seconds / self.seconds if self.torch_seconds and self.seconds else None

    @property
    def over_bare(self) -> float | None:
        """How many times its bare products' time."""
        return self.seconds / self.bare_seconds if self.bare_seconds else None

    @property
    def agrees(self) -> bool:
        """Whether ours and torch's results are the same but for rounding."""
        return self.difference is None or self.difference <= TOLERANCE[self.dtype]


@dataclass
class KernelBench:
    """Everything that was measured."""

    processor: str
    torch: str
    threads: int
    core: int | None
    clock: str
    kept_memory: bool
    quick: bool
    peaks: dict[str, Peaks]
    """By instruction set."""
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; `verdicts` are added by the caller."""
        rows = [asdict(row) | {"ratio": row.ratio, "over_bare": row.over_bare} for row in self.rows]
        peaks = {isa: peaks.as_dict() for isa, peaks in self.peaks.items()}
        return {**self.__dict__, "peaks": peaks, "rows": rows}


def chosen(option: str, text: str | None, known: Sequence[str]) -> list[str]:
    """The names in a list such as ``gemm,attention``; all of them for None. UserError for one that is unknown."""
    if text is None:
        return list(known)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UserError(f"{option} {name!r} is unknown{did_you_mean(name, known)}; there are {', '.join(known)}")
    if not names:
        raise UserError(f"{option} {text!r} names nothing; there are {', '.join(known)}")
    return [name for name in known if name in names]


def isas_here() -> list[str]:
    """The instruction sets that the kernels can use here, best first; UserError where there are no kernels."""
    try:
        from pyjpllm import _native
    except ImportError as error:
        raise UserError(f"jpllm bench kernels: the native kernels are not built here ({error})") from None
    return _native.isas()


def all_cases(ops: Sequence[str], dtypes: Sequence[str], *, quick: bool, threads: int) -> Iterator[Case]:
    """The cases of these operations in these types."""
    for family in (gemm, attention, loss, experts, memory):
        for case in family.cases(list(dtypes), quick=quick, threads=threads):
            if case.op in ops:
                yield case


def run_kernel_bench(
    ops: Sequence[str] = OPS,
    dtypes: Sequence[str] = tuple(DTYPES),
    isas: Sequence[str] = (),
    *,
    quick: bool = False,
    threads: int = 1,
    core: int | None = None,
    extra_memory: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> KernelBench:
    """Measure; with one thread this process must be pinned already. ``isas`` defaults to the one in use."""
    isas_here()
    from pyjpllm import _native

    kept = keep_memory()
    clock = time.process_time if threads == 1 else time.perf_counter
    bench = KernelBench(
        processor=f"{processor()}, {platform.machine()}",
        torch=torch.__version__,
        threads=threads,
        core=core,
        clock="CPU time" if threads == 1 else "wall time",
        kept_memory=kept,
        quick=quick,
        peaks={},
        rows=[],
    )
    for isa in isas or [_native.isa()]:
        _native.set_isa(isa)
        try:
            peaks = bench.peaks[isa] = Peaks(threads)
            peaks.measure(0.02 if quick else 0.3)
            mine = []
            for case in all_cases(ops, dtypes, quick=quick, threads=threads):
                peaks.measure_flops(0.01)
                row = _measure(case, isa, quick=quick, clock=clock, extra_memory=extra_memory)
                mine.append(row)
                say(_progress(row))
            peaks.measure(0.02 if quick else 0.3)
        finally:
            _native.set_isa("")
        for row in mine:
            row.share = row.rate * 1e9 / (peaks.bandwidth if row.unit == "GB/s" else peaks.flops(row.dtype))
        bench.rows += mine
    return bench


def _measure(case: Case, isa: str, *, quick: bool, clock: Callable[[], float], extra_memory: bool) -> Row:
    row = Row(case.op, case.what, case.shape, case.dtype, isa, case.group, facts=case.facts)
    row.unit = "GFLOP/s" if case.flops else "GB/s"
    refusals = _Refusals()
    logger = logging.getLogger("pyjpllm.ops")
    logger.addHandler(refusals)
    try:
        subject = case.make()
        result = subject.ours()
    except (Missing, UserError) as error:
        row.missing = str(error)
        return row
    finally:
        logger.removeHandler(refusals)
    if refusals.lines:
        row.missing = refusals.lines[0]
        return row
    judge = subject.exact or subject.theirs
    if judge is not None:
        row.difference = difference(result, judge())
    del result
    works = [work for work in (subject.ours, subject.theirs, subject.bare) if work is not None]
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if quick else (ROUNDS, SECONDS)
    times = iter(take_turns(works, rounds=rounds, seconds=seconds, clock=clock))
    row.seconds = next(times)
    row.torch_seconds = next(times) if subject.theirs is not None else None
    row.bare_seconds = next(times) if subject.bare is not None else None
    row.rate = (case.flops or case.bytes) / row.seconds / 1e9
    if extra_memory:
        row.extra_bytes = extra_bytes(subject.ours, result_bytes)
        if subject.theirs is not None:
            row.torch_extra_bytes = extra_bytes(subject.theirs, result_bytes)
    return row


class _Refusals(logging.Handler):
    """What the registry says when an operation is computed by torch after all."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _progress(row: Row) -> str:
    name = f"{row.what}, {row.shape}, {row.dtype}, {row.isa}"
    if row.missing is not None:
        return f"{name}: missing: {row.missing}"
    ratio = "" if row.ratio is None else f", {row.ratio:.2f} times torch"
    return f"{name}: {row.rate:.1f} {row.unit}{ratio}"
