"""What was wanted of a whole step, and what a run gave for it: line 6 of the same list as in kernels/verdicts.py."""

from __future__ import annotations

from pyjpllm.bench.kernels.verdicts import Verdict, met_text, value_text
from pyjpllm.bench.step import StepBench

WANTED = {"fp32": (0.82, 1.4), "bf16": (0.70, 1.5)}
"""By type: MFU, and how many times the speed of the better of transformers eager and compiled."""
MEMORY, SCALING = 0.6, 1.85


def step_verdicts(bench: StepBench) -> list[Verdict]:
    """The demands on our first side; those that this run has no answer to are not measured."""
    first, others = bench.rows[0], [row for row in bench.rows if row.side.startswith("transformers")]
    mfu, speed = WANTED[bench.work.dtype]
    name = bench.work.dtype.upper()
    compiled = any(row.side == "transformers-compiled" for row in others)
    found = [
        _verdict(f"whole step {name}: MFU", mfu, first.mfu, "%"),
        _verdict(
            f"whole step {name}: speed over transformers, the better of eager and compiled"
            if compiled
            else f"whole step {name}: speed over transformers, eager alone (compiled: --compile)",
            speed,
            bench.ratio(),
            "x",
        ),
    ]
    least = min((row.peak_bytes for row in others if row.peak_bytes is not None), default=None)
    memory = first.peak_bytes / least if first.peak_bytes is not None and least else None
    found.append(
        _verdict(f"whole step {name}: peak memory over the lesser of transformers'", MEMORY, memory, "x", least=False)
    )
    found.append(_verdict(f"whole step {name}: two cores over one, wall time", SCALING, bench.scaling(), "x"))
    return found


def _verdict(what: str, bound: float, value: float | None, unit: str, *, least: bool = True) -> Verdict:
    met = None if value is None else (value >= bound if least else value <= bound)
    text = f"{100 * bound:.0f}%" if unit == "%" else f"{bound:.2f}{unit}"
    return Verdict("6", what, f"{'>=' if least else '<='} {text}", value, met, int(value is not None), 0, unit)


def verdict_lines(bench: StepBench) -> list[str]:
    """As a Markdown table."""
    lines = ["| Done-when line | demand | wanted | measured | met |", "|---|---|---|---|---|"]
    for v in step_verdicts(bench):
        lines.append(f"| {v.line} | {v.what} | {v.wanted} | {value_text(v)} | {met_text(v)} |")
    return lines
