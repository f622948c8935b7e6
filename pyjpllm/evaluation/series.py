"""Long series made small enough to draw: buckets with their extremes, moving means, round tick values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pyjpllm.evaluation.metrics import Floats, Ints


@dataclass(frozen=True)
class Envelope:
    """A series in at most as many buckets as were asked for; a bucket without a finite value is NaN."""

    x: Floats
    """Mean step of each bucket."""
    low: Floats
    high: Floats
    mean: Floats
    bucketed: bool
    """False when each bucket is one value, so that low = mean = high."""


def bucket_edges(count: int, buckets: int) -> Ints:
    """Start indices of ``min(count, buckets)`` nearly equal stretches of ``count`` values."""
    used = min(count, buckets)
    return (np.arange(used, dtype=np.int64) * count) // max(used, 1)


def envelope(steps: Ints, values: Floats, buckets: int) -> Envelope:
    """Minimum, maximum and mean of the finite values in each bucket. No spike is lost, however long the run."""
    if len(steps) == 0:
        empty = np.empty(0)
        return Envelope(empty, empty, empty, empty, False)
    edges = bucket_edges(len(steps), buckets)
    sizes = np.diff(np.append(edges, len(steps)))
    finite = np.isfinite(values)
    counts = np.add.reduceat(finite.astype(np.int64), edges)
    some = counts > 0
    low = np.minimum.reduceat(np.where(finite, values, np.inf), edges)
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), edges)
    sums = np.add.reduceat(np.where(finite, values, 0.0), edges)
    x = np.add.reduceat(steps.astype(np.float64), edges) / sizes
    return Envelope(
        x=x,
        low=np.where(some, low, np.nan),
        high=np.where(some, high, np.nan),
        mean=np.where(some, sums / np.maximum(counts, 1), np.nan),
        bucketed=len(edges) < len(steps),
    )


def moving_mean(values: Floats, window: int) -> Floats:
    """Mean of the finite values within ``window`` positions centred on each one; NaN where there are none.

    At the ends the window shrinks on both sides alike, so that a slope is not bent.
    """
    count = len(values)
    if count == 0 or window <= 1:
        return values
    finite = np.isfinite(values)
    sums = np.concatenate(([0.0], np.cumsum(np.where(finite, values, 0.0))))
    counts = np.concatenate(([0], np.cumsum(finite)))
    here = np.arange(count)
    half = np.minimum(window // 2, np.minimum(here, count - 1 - here))
    first, last = here - half, here + half + 1
    inside = counts[last] - counts[first]
    return np.where(inside > 0, (sums[last] - sums[first]) / np.maximum(inside, 1), np.nan)


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) between ``low`` and ``high``."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between ``low`` and ``high`` (both > 0), with 2 and 5 of each when there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = last - first
    stride = max(1, math.ceil(decades / 6))
    factors: tuple[int, ...] = (1,) if decades > 3 else (1, 2, 5)
    ticks = [f * 10.0**p for p in range(first, last + 1, stride) for f in factors]
    inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    return inside if len(inside) >= 2 else linear_ticks(low, high)


def axis_range(low: float, high: float, *, log: bool) -> tuple[float, float]:
    """``low`` and ``high`` with a little room, never of zero width."""
    if log:
        margin = (high / low) ** 0.04 if high > low else 1.5
        return low / margin, high * margin
    margin = (high - low) * 0.04 if high > low else max(abs(high) * 0.1, 1e-12)
    return low - margin, high + margin


def short(value: float) -> str:
    """A number as a reader wants it on an axis or a tile: ``1.2M``, ``0.034``, ``3e-05``."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    size = abs(value)
    if size == 0:
        return "0"
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit * 0.9995:
            scale = 1e3 if unit == "k" else limit
            return f"{value / scale:.4g}{unit}"
    if size < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"
