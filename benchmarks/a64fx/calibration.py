"""How far a loop on the chip falls below llvm-mca's figure: fitted to published micro-kernels, with its error.

Two models of a step of K. `factor`: the chip reaches a fixed share of what llvm-mca says. `stream`: each byte that a
step takes from L2 costs a fixed time more. The bytes that come from L2 keep the L1 busy for 1/64 cycle each, measured
in streams.py; the second model says which part of that a multiply-add loop does not hide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.a64fx.classes import CORES
from benchmarks.a64fx.mca import time_loops
from benchmarks.a64fx.peers.tiles import TILES, Tile, loop


@dataclass(frozen=True)
class Point:
    """A micro-kernel: cycles a step by llvm-mca, multiply-adds a step, bytes from L2 a step, share of peak measured."""

    name: str
    cycles: float
    multiply_adds: int
    streamed_bytes: float
    measured: float | None

    @property
    def bound(self) -> float:
        """The share of two multiply-adds a cycle that llvm-mca allows."""
        return self.multiply_adds / 2 / self.cycles


def points(tiles: Sequence[Tile] = TILES) -> list[Point]:
    """The published tiles with llvm-mca's figures for their loops. Needs llvm-mca-19."""
    timings = time_loops([loop(tile) for tile in tiles], CORES["a64fx"])
    return [
        Point(tile.name, timing.cycles, tile.multiply_adds, tile.streamed_bytes, tile.measured)
        for tile, timing in zip(tiles, timings, strict=True)
    ]


def fit_factor(known: Sequence[Point]) -> float:
    """The mean of measured share over llvm-mca's."""
    return sum(p.measured / p.bound for p in known if p.measured) / sum(1 for p in known if p.measured)


def fit_stream(known: Sequence[Point]) -> float:
    """Cycles a byte from L2: the mean over the points of what each one needs."""
    costs = [(p.multiply_adds / 2 / p.measured - p.cycles) / p.streamed_bytes for p in known if p.measured]
    return sum(costs) / len(costs)


def by_factor(known: Sequence[Point], point: Point) -> float:
    return point.bound * fit_factor(known)


def by_stream(known: Sequence[Point], point: Point) -> float:
    return share(point.multiply_adds, point.cycles, point.streamed_bytes, fit_stream(known))


def share(multiply_adds: float, cycles: float, streamed_bytes: float, cost: float) -> float:
    """Share of two multiply-adds a cycle of a step whose bytes from L2 cost so much each."""
    return multiply_adds / 2 / (cycles + cost * streamed_bytes)


def left_out(known: Sequence[Point], model: Callable[[Sequence[Point], Point], float]) -> dict[str, float]:
    """Each measured point predicted from the others, minus what was measured (shares of peak)."""
    measured = [p for p in known if p.measured is not None]
    return {p.name: model([q for q in measured if q is not p], p) - (p.measured or 0) for p in measured}


@dataclass(frozen=True)
class Calibration:
    """The cost of a byte from L2 and the error bar of a predicted share of peak: the largest error of a point that
    was left out, two-sided."""

    cost: float
    error: float


def calibrate(known: Sequence[Point]) -> Calibration:
    """The model that predicts the points left out better, which is `stream` (docs/prediction.md has both)."""
    return Calibration(fit_stream(known), max(abs(e) for e in left_out(known, by_stream).values()))
