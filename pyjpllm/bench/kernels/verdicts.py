"""The final block: each line of what was wanted of the kernels, and what this run gave for it.

The numbers of the lines and the bounds are those of the issue that asked for the kernels: "Done when" 1 to 5, for one
pinned core with AVX-512. On another machine they are the same questions, with the answers of that machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyjpllm.bench.kernels.bench import Row

MIB = float(1 << 20)


@dataclass
class Verdict:
    """One demand."""

    line: str
    """The Done-when line."""
    what: str
    wanted: str
    value: float | None
    """None when no row of this run speaks to it."""
    met: bool | None
    rows: int
    missing: int
    """Rows that ours lacks; a demand with any is not met."""
    unit: str = ""


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean of logarithms; NaN for none."""
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else math.nan


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """All demands that rows of this run speak to, in the order of the lines."""
    found: list[Verdict] = []

    def group(name: str, head: int | None = None) -> list[Row]:
        return [row for row in rows if row.group == name and (head is None or row.facts.get("head") == head)]

    def demand(
        line: str,
        what: str,
        among: Sequence[Row],
        value: Callable[[Row], float | None],
        reduce: Callable[[list[float]], float],
        bound: float,
        *,
        least: bool = True,
        unit: str = "",
    ) -> None:
        if not among:
            return
        values = [v for row in among if row.missing is None and (v := value(row)) is not None]
        got = reduce(values) if values else None
        absent = sum(row.missing is not None for row in among)
        met = None
        if got is not None or absent:
            met = absent == 0 and got is not None and (got >= bound if least else got <= bound)
        wanted = f"{'>=' if least else '<='} {_text(bound, unit)}"
        found.append(Verdict(line, what, wanted, got, met, len(values), absent, unit))

    def share(row: Row) -> float:
        return row.share

    def ratio(row: Row) -> float | None:
        return row.ratio

    large = group("1 large")
    demand("1", "GEMM FP32, large: least share of peak", large, share, min, 0.90, unit="%")
    demand("1", "GEMM FP32, large: least ratio to torch", large, ratio, min, 1.0, unit="x")
    demand("1", "GEMM FP32, large: geometric mean to torch", large, ratio, geometric_mean, 1.1, unit="x")
    demand("1", "GEMM FP32, skinny and small: geometric mean", group("1 small"), ratio, geometric_mean, 1.2, unit="x")
    large = group("2 large")
    demand("2", "GEMM BF16, large: least share of the BF16 peak", large, share, min, 0.88, unit="%")
    demand("2", "GEMM BF16, large: geometric mean to torch", large, ratio, geometric_mean, 1.0, unit="x")
    bounds = {
        ("fp32", "forward"): (0.82, 0.87),
        ("fp32", "backward"): (0.82, 0.87),
        ("bf16", "forward"): (0.75, 0.82),
        ("bf16", "backward"): (0.65, 0.75),
    }
    for (dtype, direction), at_head in bounds.items():
        for head, bound in zip((64, 128), at_head, strict=True):
            what = f"attention {dtype.upper()} {direction}, head {head}: least share of peak"
            demand("3", what, group(f"3 {dtype} {direction}", head), share, min, bound, unit="%")
    for dtype, bound in (("fp32", 1.6), ("bf16", 2.2)):
        both = group(f"3 {dtype} forward") + group(f"3 {dtype} backward")
        demand("3", f"attention {dtype.upper()}: geometric mean to SDPA", both, ratio, geometric_mean, bound, unit="x")
        demand("3", f"attention {dtype.upper()}: least ratio to SDPA", both, ratio, min, 1.3, unit="x")
        what = f"attention {dtype.upper()}: most extra memory, in units of q, k and v"
        demand("3", what, both, _extra_over_inputs, max, 2.0, least=False, unit="x")
    for dtype in ("fp32", "bf16"):
        loss, name = group(f"4 {dtype}"), f"linear + cross-entropy {dtype.upper()}"
        demand("4", f"{name}: most time over its three products", loss, _over_bare, max, 1.10, least=False, unit="x")
        demand("4", f"{name}: most extra memory", loss, _extra, max, 128 * MIB, least=False, unit="MiB")
    demand("5", "memory-bound: least share of bandwidth", group("5 memory"), share, min, 0.80, unit="%")
    return found


def _over_bare(row: Row) -> float | None:
    return row.over_bare


def _extra(row: Row) -> float | None:
    return None if row.extra_bytes is None else float(row.extra_bytes)


def _extra_over_inputs(row: Row) -> float | None:
    return None if row.extra_bytes is None else row.extra_bytes / row.facts["inputs"]


def _text(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.0f}%" if value == round(value, 2) else f"{100 * value:.1f}%"
    if unit == "MiB":
        return f"{value / MIB:.0f} MiB"
    return f"{value:.2f}{unit}"


def value_text(verdict: Verdict) -> str:
    """The value with its unit."""
    return "-" if verdict.value is None else _text(verdict.value, verdict.unit)


def met_text(verdict: Verdict) -> str:
    """In words."""
    if verdict.missing:
        return f"no: {verdict.missing} missing"
    return {True: "yes", False: "no", None: "not measured"}[verdict.met]
