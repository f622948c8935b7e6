"""The result as text: Markdown tables, which a terminal shows as well."""

from __future__ import annotations

from collections.abc import Sequence

from pyjpllm.bench.kernels.bench import KernelBench, Row
from pyjpllm.bench.kernels.verdicts import MIB, Verdict, geometric_mean, met_text, value_text
from pyjpllm.bench.probe import Peaks


def table(bench: KernelBench, block: dict[str, list[Verdict]]) -> str:
    """Everything; ``block`` has the verdicts of each instruction set."""
    where = f"core {bench.core}, " if bench.core is not None else ""
    lines = [
        f"{bench.processor}, {where}{bench.threads} thread{'s' * (bench.threads > 1)}, {bench.clock}, best of several, "
        f"torch {bench.torch}{', quick: a few small shapes, no figures to keep' if bench.quick else ''}"
    ]
    if not bench.kept_memory:
        lines.append("This system's malloc cannot keep memory: page faults are in the figures of large operations.")
    for isa, peaks in bench.peaks.items():
        rows = [row for row in bench.rows if row.isa == isa]
        lines += ["", peaks_line(isa, peaks), "", *rows_table(rows, torch_memory=True)]
        wrong = [row for row in rows if not row.agrees]
        for row in wrong:
            lines.append(f"THE RESULTS DIFFER by {row.difference:.2g}: {row.what}, {row.shape}, {row.dtype}")
        lines += ["", *missing_list(rows), *verdict_table(isa, block[isa])]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def peaks_line(isa: str, peaks: Peaks) -> str:
    """What the machine does at most."""
    dot = f"BF16 dot products {peaks.dot / 1e9:.1f}" if peaks.has_dot else "no BF16 dot product: BF16 is converted"
    streams = ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in peaks.streams.items())
    return f"{isa}: FP32 multiply-adds {peaks.fma / 1e9:.1f} GFLOP/s, {dot}; GB/s: {streams}"


def rows_table(rows: Sequence[Row], *, torch_memory: bool) -> list[str]:
    """One line a measured row."""
    lines = [
        "| operation | shape | type | rate | share | of torch's speed | over bare products | extra memory (torch's) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.missing is not None:
            continue
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        bare = "" if row.over_bare is None else f"{row.over_bare:.3f}"
        memory = _mib(row.extra_bytes) + (f" ({_mib(row.torch_extra_bytes)})" if torch_memory else "")
        lines.append(
            f"| {row.what} | {row.shape} | {row.dtype} | {row.rate:.1f} {row.unit} | {100 * row.share:.1f}% "
            f"| {ratio} | {bare} | {memory} |"
        )
    return lines


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / MIB:.1f} MiB"


def missing_list(rows: Sequence[Row]) -> list[str]:
    """What ours lacks, by name."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.missing is not None:
            names = reasons.setdefault(row.missing, [])
            name = f"{row.what} {row.dtype}"
            if name not in names:
                names.append(name)
    if not reasons:
        return []
    return ["Missing:", *(f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()), ""]


def verdict_table(isa: str, block: Sequence[Verdict]) -> list[str]:
    """Geometric means and minima, by Done-when line."""
    if not block:
        return []
    lines = [
        f"| {isa}: Done-when line | geometric mean, least or most over its rows | wanted | measured | rows | met |",
        "|---|---|---|---|---|---|",
    ]
    for verdict in block:
        lines.append(
            f"| {verdict.line} | {verdict.what} | {verdict.wanted} | {value_text(verdict)} | {verdict.rows} "
            f"| {met_text(verdict)} |"
        )
    return lines


def markdown(bench: KernelBench, block: dict[str, list[Verdict]]) -> str:
    """A short table for a page: one line a group of rows, then the verdicts."""
    lines = []
    for isa, peaks in bench.peaks.items():
        lines += [
            peaks_line(isa, peaks),
            "",
            "| operation | type | rows | share: least, geometric mean, most | of torch's speed: the same |",
            "|---|---|---|---|---|",
        ]
        rows = [row for row in bench.rows if row.isa == isa]
        for what, dtype in dict.fromkeys((row.what, row.dtype) for row in rows if row.missing is None):
            mine = [row for row in rows if (row.what, row.dtype) == (what, dtype) and row.missing is None]
            for label, part in _parts(mine):
                shares, ratios = [row.share for row in part], [row.ratio for row in part if row.ratio is not None]
                lines.append(
                    f"| {what}{label} | {dtype} | {len(part)} | {_three(shares, 100, '%')} | {_three(ratios, 1, '')} |"
                )
        lines += ["", *missing_list(rows), *verdict_table(isa, block[isa]), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip()


def _parts(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Large and small products apart, head sizes apart."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        label = ""
        if row.op == "gemm":
            label = ", large" if all(int(n) >= 512 for n in row.shape.split("x")) else ", skinny and small"
        elif "head" in row.facts:
            label = f", head {row.facts['head']:.0f}"
        parts.setdefault(label, []).append(row)
    return list(parts.items())


def _three(values: Sequence[float], factor: float, unit: str) -> str:
    if not values:
        return "-"
    digits = 0 if unit else 2
    return ", ".join(f"{factor * v:.{digits}f}{unit}" for v in (min(values), geometric_mean(values), max(values)))
