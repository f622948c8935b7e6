"""Predicted time of one operation on a core or on the 12 cores of a CMG: instructions, caches, memory, translation.

Every function is pure. Times are cycles of one core while `cores` cores of a CMG share the work; a `Prediction` has
the share of the multiply-add peak, or of the memory's rate, that follows.

Legend: C[M, N] = A[M, K] B[K, N]; V lanes of a vector; MR x NV a tile's rows x vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.a64fx import streams
from benchmarks.a64fx.calibration import Calibration
from benchmarks.a64fx.machine import A64FX, Machine

# From the last multiply-add of a tile to the first of the next: the sums drain (9 cycles each way), addresses are made,
# the first operands come from L1 (11) or, the tile's rows of C, from L2 (46 to 56). No one has measured it.
TILE_GAP = 40.0

# What is left of a core's speed when 12 work: BLIS's SGEMM falls from 89% on one core to 86% on a CMG's 12 (SSL2's
# rises from 85% to 92%: the bar is the distance of the two from their mean).
TEAM, TEAM_ERROR = 0.966, 0.06


@dataclass(frozen=True)
class Step:
    """A micro-kernel's step of K by llvm-mca: cycles, rows x vectors of its tile, bytes of an operand's element.

    `every` steps it spends `more` cycles more (the chunked FP16 product moves its sums to FP32).
    """

    cycles: float
    rows: int
    vectors: int
    element: int = 4
    lanes: int = 16
    every: int = 0
    more: float = 0.0

    @property
    def per_step(self) -> float:
        return self.cycles + (self.more / self.every if self.every else 0.0)


@dataclass(frozen=True)
class Blocking:
    """The driver's blocks (kernels/simd/sve.h, Tuning): K in cache, rows of A and columns of B kept packed."""

    k: int
    m: int
    panel_n: int
    panel_m: int


@dataclass(frozen=True)
class Prediction:
    """Cycles by part, the flop done, and what follows; `error` is the two-sided bar of `share` (of the FP32 peak)."""

    parts: dict[str, float]
    flop: float
    cores: int
    error: float
    machine: Machine = A64FX

    @property
    def cycles(self) -> float:
        """The cores' own work, or the memory's time where that is longer."""
        return max(_own(self.parts), self.parts.get("memory", 0.0))

    @property
    def seconds(self) -> float:
        return self.cycles / self.machine.frequency

    @property
    def flops(self) -> float:
        return self.flop / self.seconds

    @property
    def share(self) -> float:
        """Of the FP32 multiply-add peak of the cores that work."""
        return self.flops / (self.machine.peak_core * self.cores)


def ceil_div(a: float, b: float) -> int:
    return math.ceil(a / b)


def k_block(k: int, block: int, lanes: int = 16) -> int:
    """The driver's choice: equal blocks of at most `block`, whole vectors long."""
    blocks = max(1, ceil_div(k, block))
    return min(k, ceil_div(ceil_div(k, blocks), lanes) * lanes)


def streamed_bytes(step: Step, blocking: Blocking, kc: int, machine: Machine = A64FX) -> float:
    """Bytes from L2 a step: A's, and B's as often as a sliver of B has to come anew.

    A sliver of B (NV vectors x kc) is used for every tile of a block of rows. It stays in L1 for them where it fits
    beside one sliver of A and the lines of a tile of C; else it comes from L2 at every step.
    """
    a = step.rows * step.element
    b = step.vectors * 64
    tile_of_c = step.rows * 2 * machine.line_bytes
    if kc * (a + b) + tile_of_c > machine.l1_bytes:
        return a + b
    return a + b / max(1, blocking.m // step.rows)


def split(m: int, n: int, step: Step, cores: int) -> tuple[float, float]:
    """(tiles of the busiest core, tiles in the mean) when a grid of cores shares the tiles of C."""
    rows, columns = ceil_div(m, step.rows), ceil_div(n, step.vectors * step.lanes)
    best = min(
        ceil_div(rows, grid) * ceil_div(columns, cores // grid) for grid in range(1, cores + 1) if cores % grid == 0
    )
    return best, rows * columns / cores


def gemm(
    m: int,
    n: int,
    k: int,
    *,
    step: Step,
    blocking: Blocking,
    calibration: Calibration,
    cores: int = 1,
    machine: Machine = A64FX,
    prepacked: bool = False,
) -> Prediction:
    """C += A B. `prepacked`: B is packed already (weights kept packed)."""
    kc = k_block(k, blocking.k)
    passes = ceil_div(k, kc)
    panels = ceil_div(n, blocking.panel_n)
    busiest, _ = split(m, n, step, cores)
    streamed = streamed_bytes(step, blocking, kc, machine)
    tile_bytes = step.rows * step.vectors * 64
    l2, memory = streams.fit("l2"), streams.fit("memory")
    packed = (m * panels + (0 if prepacked else n)) * k * step.element / 64 / cores
    parts = {
        "multiply": busiest * k * step.per_step,
        "from L2": busiest * k * calibration.cost * streamed,
        "tiles of C": busiest * passes * (TILE_GAP + tile_bytes / 64 * l2.update),
        "packing": packed * memory.cycles(1, 0, 1),
        "memory": gemm_bytes(m, n, k, step, blocking, prepacked) / machine.hbm_cmg * machine.frequency,
    }
    parts["pages"] = page_walks(m, n, k, step, machine) * machine.page_walk / cores
    parts["team"] = _own(parts) * (1 / TEAM - 1) if cores > 1 else 0.0
    overhead = (parts["tiles of C"] + parts["packing"] + parts["pages"]) / _own(parts)
    predicted = Prediction(parts, 2.0 * m * n * k, cores, 0.0, machine)
    error = math.hypot(calibration.error, overhead / 2, TEAM_ERROR if cores > 1 else 0.0) * predicted.share
    return Prediction(parts, predicted.flop, cores, error, machine)


def _own(parts: dict[str, float]) -> float:
    return sum(value for name, value in parts.items() if name != "memory")


def gemm_bytes(m: int, n: int, k: int, step: Step, blocking: Blocking, prepacked: bool = False) -> float:
    """Bytes between L2 and memory: A for every panel of columns, B once, C read and written for every block of K (once
    written where there is one), packed copies of A for every panel. A product that fits L2 beside its packed copies
    is counted alike: it comes from memory once."""
    passes = ceil_div(k, k_block(k, blocking.k))
    panels = ceil_div(n, blocking.panel_n)
    a = m * k * step.element * panels
    b = n * k * step.element * (1 if prepacked else 2)
    c = m * n * 4 * (2 * passes - 1)
    return a + b + c


def page_walks(m: int, n: int, k: int, step: Step, machine: Machine = A64FX) -> float:
    """Walks of the page table: one for each page of each operand and pass over it, beyond what the second-level TLB
    holds. With huge pages a node's whole memory of 8 GiB a CMG is 4096 pages, of which the TLB holds 1024."""
    pages = [
        ceil_div(rows * columns * size, machine.page_bytes)
        for rows, columns, size in ((m, k, step.element), (k, n, step.element), (m, n, 4))
    ]
    return float(sum(pages)) if sum(pages) > machine.tlb_pages else 0.0


# --- loops over rows and elements ---------------------------------------------------------------------------------


def stream(
    vectors: float,
    arithmetic: float,
    reads: float,
    updates: float = 0,
    fresh: float = 0,
    *,
    cores: int = 1,
    zeroed: bool = False,
    machine: Machine = A64FX,
    flop: float = 0.0,
) -> Prediction:
    """A pass over `vectors` vectors of each stream, from memory. `arithmetic`: llvm-mca's cycles a vector.

    `zeroed`: fresh lines are zeroed by DC ZVA and not read from memory. The error bar is streams.py's.
    """
    core = max(arithmetic, streams.fit("memory").cycles(reads, updates, fresh))
    moved = 64 * vectors * (reads + 2 * updates + (1 if zeroed else 2) * fresh)
    parts = {"own": vectors * core / cores, "memory": moved / machine.hbm_cmg * machine.frequency}
    error = max(abs(e) for e in streams.errors("memory").values())
    return Prediction(parts, flop, cores, error, machine)


# --- attention ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionLoops:
    """llvm-mca's figures of the attention kernels: share of two multiply-adds a cycle of the tiles, cycles of the
    exponential for a vector of scores, forward and (to make P again) backward."""

    forward_share: float
    backward_share: float
    forward_exp: float
    backward_exp: float


def attention(
    heads: int,
    s: int,
    d: int,
    *,
    loops: AttentionLoops,
    calibration: Calibration,
    streamed: float,
    causal: bool = True,
    backward: bool = False,
    cores: int = 1,
    machine: Machine = A64FX,
    rest: float = 0.04,
    waste: float = 0.016,
) -> Prediction:
    """One sequence of `heads` heads of width d, FP32. Forward is two products of S x S x d, backward five.

    `streamed`: bytes from L2 for each multiply-add of vectors. `rest`: packing and finish, a share of the time;
    `waste`: multiply-adds above the diagonal that its tiles do in vain. Both were measured on another processor with
    a design like this one.
    """
    pairs = s * (s + 1) / 2 if causal else s * s
    products = 5 if backward else 2
    flop = 2.0 * products * heads * pairs * d
    adds = flop / 2 / machine.lanes * (1 + waste)
    share = loops.backward_share if backward else loops.forward_share
    exp = loops.backward_exp if backward else loops.forward_exp
    multiply = adds / machine.fma_per_cycle / share / cores
    parts = {
        "multiply": multiply,
        "from L2": adds * streamed * calibration.cost / cores,
        "exp": heads * pairs * (1 + waste) / machine.lanes * exp / cores,
    }
    parts["rest"] = rest * sum(parts.values())
    blocks = ceil_div(s, 48) * heads / cores
    imbalance = ceil_div(blocks, 1) / blocks
    parts = {name: value * imbalance for name, value in parts.items()}
    parts["team"] = _own(parts) * (1 / TEAM - 1) if cores > 1 else 0.0
    predicted = Prediction(parts, flop, cores, 0.0, machine)
    other = (parts["exp"] + parts["rest"]) / _own(parts)
    # llvm-mca's exponential lies within 11% of a cycle-approximate simulator's.
    error = math.hypot(calibration.error, 0.11 * other, TEAM_ERROR if cores > 1 else 0.0) * predicted.share
    return Prediction(parts, flop, cores, error, machine)
