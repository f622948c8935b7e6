"""What a loop over long vectors costs beyond its instructions: lines that move between L1, L2 and memory.

The execution-cache-memory picture (Stengel and others, ICS 2015; for A64FX Alappat and others, PMBS 2020): moving a
line between L1 and L2 takes the L1 that loads and stores would use, so those times add up; arithmetic goes on beside
them. The coefficients are fitted to seven loops measured on the chip by the second paper's authors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.a64fx.machine import A64FX, Machine

_VECTOR = 64


@dataclass(frozen=True)
class Measured:
    """A loop on one core of an FX700: streams read and written, cycles a 64-byte vector with all data in L1, in L2 and
    in memory (8 times L2; pages of 64 KiB, all in the TLB). `fresh` streams are written without having been read."""

    name: str
    reads: int
    writes: int
    fresh: int
    l1: float
    l2: float
    memory: float


# Unrolled 8 times; rows of 35 kB, 1 MB and 25 MB a stream or so (machine.py says where they are).
MEASURED = (
    Measured("load", 1, 0, 0, 0.80, 1.96, 2.73),
    Measured("sum", 1, 0, 0, 1.27, 2.07, 2.64),
    Measured("dot", 2, 0, 0, 1.73, 3.25, 3.98),
    Measured("fill", 0, 1, 1, 1.08, 3.90, 4.33),
    Measured("copy", 1, 1, 1, 1.64, 4.59, 5.13),
    Measured("daxpy", 2, 1, 0, 2.14, 4.75, 5.49),
    Measured("triad", 3, 1, 1, 2.79, 7.25, 8.49),
)


@dataclass(frozen=True)
class Streams:
    """Cycles of one core to move a 64-byte vector of each kind of stream, everything that is on the way included.

    `start`: of any loop, whatever its streams. `read`: read only. `update`: written where it was read before.
    `fresh`: written only; its line is read first.
    """

    start: float
    read: float
    update: float
    fresh: float

    def cycles(self, reads: float, updates: float = 0, fresh: float = 0) -> float:
        """Cycles a vector of a loop that reads, updates and writes so many streams."""
        return self.start + self.read * reads + self.update * updates + self.fresh * fresh


def terms(loop: Measured) -> tuple[float, float, float]:
    """Streams of a loop that are only read, updated, only written."""
    updates = loop.writes - loop.fresh
    return loop.reads - updates, updates, loop.fresh


def fit(level: str, loops: tuple[Measured, ...] = MEASURED) -> Streams:
    """The least-squares coefficients for data in "l2" or "memory", relative errors weighing alike."""
    times = np.array([getattr(loop, level) for loop in loops])
    matrix = np.array([(1, *terms(loop)) for loop in loops]) / times[:, None]
    start, read, update, fresh = np.linalg.lstsq(matrix, np.ones(len(loops)), rcond=None)[0]
    return Streams(float(start), float(read), float(update), float(fresh))


def errors(level: str) -> dict[str, float]:
    """Relative error of each loop predicted from the others (daxpy alone has an updated stream: it is left out)."""
    found = {}
    for loop in MEASURED:
        if loop.name == "daxpy":
            continue
        others = tuple(other for other in MEASURED if other is not loop)
        found[loop.name] = fit(level, others).cycles(*terms(loop)) / getattr(loop, level) - 1
    return found


def loop_cycles(
    arithmetic: float,
    reads: float,
    updates: float = 0,
    fresh: float = 0,
    *,
    level: str = "memory",
    cores: int = 1,
    machine: Machine = A64FX,
) -> float:
    """Cycles a core takes for one vector of every stream, when `cores` of a CMG do the same.

    `arithmetic`: llvm-mca's cycles of the loop a vector; a fresh stream counts twice in memory's traffic (it is read
    before it is written) unless it is zeroed by DC ZVA, and then the caller says it is half a stream.
    """
    core = fit(level).cycles(reads, updates, fresh)
    cycles = max(arithmetic, core)
    if level == "memory":
        moved = _VECTOR * (reads + 2 * updates + 2 * fresh) * cores
        cycles = max(cycles, moved / machine.hbm_cmg * machine.frequency)
    return cycles
