"""Line and stacked-area charts as SVG text: drawn once here, so that the page needs no script to show them.

Each chart is drawn for a linear and, where every value is positive, a logarithmic axis, and each line at three levels
of smoothing; the page's switches show one of them by CSS class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from pyjpllm.evaluation.metrics import Floats, Ints
from pyjpllm.evaluation.series import axis_range, bucket_edges, envelope, linear_ticks, log_ticks, moving_mean, short

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 10, 30
BUCKETS = 480
"""Points of a line: more than the pixels between two of them can show."""
SMOOTHING = (0.0, 0.01, 0.05)
"""Widths of the moving mean, as parts of the run: the page's switch has one entry for each."""


@dataclass(frozen=True)
class Line:
    """A series of a chart. ``sparse`` ones (validation) are drawn as points joined by straight lines."""

    name: str
    steps: Ints
    values: Floats
    colour: int
    sparse: bool = False


@dataclass(frozen=True)
class Chart:
    """What the page shows of one chart."""

    key: str
    title: str
    svg: str
    legend: tuple[tuple[str, int], ...]
    data: dict[str, Any] = field(default_factory=dict)
    """For the pointer: x and the values of each series, downsampled."""


Scale = Callable[[float], float]


def _x_scale(domain: tuple[float, float]) -> Scale:
    start, stop = domain
    width = (stop - start) or 1.0
    return lambda x: LEFT + (x - start) / width * (WIDTH - LEFT - RIGHT)


def _y_scale(low: float, high: float, *, log: bool) -> Scale:
    inner = HEIGHT - TOP - BOTTOM
    if log:
        bottom, span = math.log(low), math.log(high) - math.log(low)
        return lambda y: TOP + inner * (1 - (math.log(y) - bottom) / span)
    return lambda y: TOP + inner * (1 - (y - low) / (high - low))


def _runs(y: Floats) -> list[tuple[int, int]]:
    """Stretches of finite values, as (start, stop)."""
    finite = np.concatenate(([False], np.isfinite(y), [False])).astype(np.int8)
    change = np.diff(finite)
    return list(zip(np.flatnonzero(change == 1).tolist(), np.flatnonzero(change == -1).tolist(), strict=True))


def _polyline(x: Floats, y: Floats, sx: Scale, sy: Scale) -> str:
    parts = []
    for start, stop in _runs(y):
        points = [f"{sx(x[i]):.1f},{sy(y[i]):.1f}" for i in range(start, stop)]
        if len(points) == 1:  # a zero-length stroke with round caps shows as a dot
            points.append(points[0])
        parts.append("M" + "L".join(points))
    return "".join(parts)


def _band(x: Floats, low: Floats, high: Floats, sx: Scale, sy: Scale) -> str:
    parts = []
    for start, stop in _runs(low + high):
        upper = [f"{sx(x[i]):.1f},{sy(high[i]):.1f}" for i in range(start, stop)]
        lower = [f"{sx(x[i]):.1f},{sy(low[i]):.1f}" for i in range(stop - 1, start - 1, -1)]
        parts.append("M" + "L".join(upper + lower) + "Z")
    return "".join(parts)


def _axes(domain: tuple[float, float], sx: Scale, sy: Scale, y_ticks: Sequence[float]) -> str:
    parts = []
    for tick in y_ticks:
        y = sy(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(short(tick))}</text>'
        )
    for tick in linear_ticks(*domain, about=7):
        if tick != int(tick):
            continue
        x = sx(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
        )
        anchor = "end" if x > WIDTH - 40 else "middle"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor}">{short(tick)}</text>'
        )
    return "".join(parts)


def _svg(key: str, label: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" data-chart="{escape(key)}">'
        f"{body}"
        f'<line class="cross" x1="0" x2="0" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<rect class="pad" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/>'
        "</svg>"
    )


def _focus(low: float, high: float, lines: Sequence[Line], *, log: bool) -> tuple[float, float]:
    """The range of the y axis. On a linear axis a spike of a step or two may not flatten the whole run: what lies
    beyond three times the middle 98% is cut off at the edge of the chart (the logarithmic axis shows it)."""
    if log:
        return axis_range(low, high, log=True)
    values = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    if len(values) >= 100:
        first, last = np.quantile(values, [0.01, 0.99])
        room = 3.0 * max(last - first, 1e-12)
        low, high = max(low, float(first) - room), min(high, float(last) + room)
    return axis_range(low, high, log=False)


def line_chart(
    key: str, title: str, lines: Sequence[Line], domain: tuple[float, float], *, zero: bool = False, log: bool = True
) -> Chart | None:
    """A chart of ``lines`` over the steps of ``domain``; None when no line has a finite value.

    ``zero`` starts the linear axis at 0; ``log`` adds the logarithmic one where all values allow it.
    Values that are NaN or infinite leave a gap and a mark at the bottom.
    """
    drawn = [line for line in lines if np.isfinite(line.values).any()]
    if not drawn:
        return None
    low = min(float(np.nanmin(np.where(np.isfinite(line.values), line.values, np.nan))) for line in drawn)
    high = max(float(np.nanmax(np.where(np.isfinite(line.values), line.values, np.nan))) for line in drawn)
    sx = _x_scale(domain)
    body = []
    for scale in ("lin", "log") if log and low > 0 else ("lin",):
        bottom, top = _focus(low, high, drawn, log=scale == "log")
        if zero and scale == "lin":
            bottom = min(0.0, low)
        sy = _y_scale(bottom, top, log=scale == "log")
        ticks = log_ticks(bottom, top) if scale == "log" else linear_ticks(bottom, top)
        both = "" if log and low > 0 else " only"
        body.append(f'<g class="{scale}{both}">{_axes(domain, sx, sy, ticks)}<g clip-path="url(#plot)">')
        body.extend(_draw(line, sx, sy) for line in drawn)
        body.append("</g></g>")
    body.extend(_marks(line, sx) for line in drawn if not line.sparse)
    data = {"x": [], "series": []} | _pointer_data(drawn)
    legend = tuple((line.name, line.colour) for line in drawn)
    return Chart(key, title, _svg(key, title, "".join(body)), legend, data)


def _draw(line: Line, sx: Scale, sy: Scale) -> str:
    stroke = f'class="line c{line.colour}'
    if line.sparse:
        seen = np.isfinite(line.values)
        whole = envelope(line.steps[seen], line.values[seen], BUCKETS)
        path = _polyline(whole.x, whole.mean, sx, sy)
        dots = "".join(f'<circle class="c{line.colour}" cx="{sx(x):.1f}" cy="{sy(y):.1f}" r="2.6"/>'
                       for x, y in zip(whole.x, whole.mean, strict=True)) if len(whole.x) <= 120 else ""  # fmt: skip
        return f'<path {stroke}" d="{path}"/>{dots}'
    raw = envelope(line.steps, line.values, BUCKETS)
    parts = (
        [f'<path class="band c{line.colour}" d="{_band(raw.x, raw.low, raw.high, sx, sy)}"/>'] if raw.bucketed else []
    )
    parts.append(f'<path {stroke} s0" d="{_polyline(raw.x, raw.mean, sx, sy)}"/>')
    if len(line.values) > 20:
        parts.append(f'<path {stroke} faint s12" d="{_polyline(raw.x, raw.mean, sx, sy)}"/>')
    for level, share in enumerate(SMOOTHING[1:], start=1):
        smooth = moving_mean(line.values, max(3, int(share * len(line.values)) | 1) if len(line.values) > 20 else 1)
        picked = envelope(line.steps, smooth, BUCKETS)
        parts.append(f'<path {stroke} s{level}" d="{_polyline(picked.x, picked.mean, sx, sy)}"/>')
    return "".join(parts)


def _marks(line: Line, sx: Scale) -> str:
    """Red ticks where a value that should be there is NaN or infinite: from the first finite one on."""
    seen = np.flatnonzero(np.isfinite(line.values))
    bad = ~np.isfinite(line.values)
    if len(seen):
        bad[: seen[0]] = False  # a column may begin later than the run
    if not bad.any():
        return ""
    places = sorted({round(sx(float(step)), 0) for step in line.steps[bad][:: max(1, int(bad.sum()) // 2000)]})
    bottom = HEIGHT - BOTTOM
    path = "".join(f"M{x:.0f},{bottom}v-7" for x in places)
    return f'<path class="bad" d="{path}"><title>not finite</title></path>'


def _compact(values: Floats) -> list[float | None]:
    """Rounded to what a pointer's read-out shows; NaN becomes null, which JSON has."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]


def _pointer_data(lines: Sequence[Line]) -> dict[str, Any]:
    series = []
    for line in lines:
        seen = np.isfinite(line.values) if line.sparse else np.ones(len(line.values), dtype=bool)
        picked = envelope(line.steps[seen], line.values[seen], BUCKETS)
        series.append(
            {"name": line.name, "colour": line.colour, "x": [round(x, 1) for x in picked.x], "y": _compact(picked.mean)}
        )
    return {"series": series}


def stacked_chart(
    key: str, title: str, names: Sequence[str], steps: Ints, parts: Sequence[Floats], domain: tuple[float, float]
) -> Chart | None:
    """Areas on top of one another: part i of each bucket's mean, missing values as 0."""
    if not names or len(steps) == 0:
        return None
    edges = bucket_edges(len(steps), BUCKETS // 2)
    sizes = np.diff(np.append(edges, len(steps)))
    means = [np.add.reduceat(np.nan_to_num(part, posinf=0.0, neginf=0.0), edges) / sizes for part in parts]
    x = np.add.reduceat(steps.astype(np.float64), edges) / sizes
    sums = np.cumsum(np.vstack([np.zeros_like(x), *means]), axis=0)
    top = float(np.quantile(sums[-1], 0.99)) * 1.3
    if not top > 0:
        return None
    top = min(top, float(sums[-1].max()) * 1.04)
    sx, sy = _x_scale(domain), _y_scale(0.0, top, log=False)
    if len(x) == 1:  # one step: a bar over the whole width
        x = np.array([domain[0], domain[1]])
        sums = np.repeat(sums, 2, axis=1)
    body = [f'<g class="lin only">{_axes(domain, sx, sy, linear_ticks(0.0, top))}<g clip-path="url(#plot)">']
    body += [
        f'<path class="area c{i}" d="{_band(x, sums[i], sums[i + 1], sx, sy)}"><title>{escape(name)}</title></path>'
        for i, name in enumerate(names)
    ]
    body.append("</g></g>")
    picked = [round(value, 1) for value in x]
    data = {
        "series": [
            {"name": name, "colour": i, "x": picked, "y": _compact(sums[i + 1] - sums[i])}
            for i, name in enumerate(names)
        ]
    }
    return Chart(key, title, _svg(key, title, "".join(body)), tuple((name, i) for i, name in enumerate(names)), data)
