"""What the prediction takes from the tree itself: block sizes of the product, and llvm-mca's figures of the loops."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.a64fx.loops import Row
from benchmarks.a64fx.roofline import AttentionLoops, Blocking, Step
from benchmarks.a64fx.toolchain import ROOT, MissingError

HEADER = Path("kernels/simd/sve.h")
_CONSTANT = re.compile(r"(\w+) = (\d+)")


def constants(text: str) -> dict[str, int]:
    """The numbers of `struct Tuning` in a header of kernels/simd."""
    match = re.search(r"struct Tuning\b.*?\{(.*?)\n\};", text, re.DOTALL)
    if match is None:
        raise MissingError(f"{HEADER} has no struct Tuning")
    return {name: int(value) for name, value in _CONSTANT.findall(match[1])}


def read_constants(root: Path = ROOT) -> dict[str, int]:
    """The tuning numbers of the tree's SVE units."""
    return constants((root / HEADER).read_text(encoding="utf-8"))


def blocking(numbers: dict[str, int]) -> Blocking:
    """The product's blocks."""
    return Blocking(numbers["block_k"], numbers["block_m"], numbers["panel_n"], numbers["panel_m"])


def gemm_step(rows: Sequence[Row], numbers: dict[str, int]) -> Step:
    """The FP32 product's main loop: a step of K, however often the compiler unrolled it."""
    tile = numbers["tile_rows"] * numbers["tile_vectors"]
    row = product_loop(rows, "gemm", "fp32", tile)
    return Step(row.cycles * tile / row.multiply_adds, numbers["tile_rows"], numbers["tile_vectors"])


def product_loop(rows: Sequence[Row], family: str, kind: str, sums: int) -> Row:
    """The best loop of a product with at least so many sums."""
    found = [r for r in rows if r.family == family and r.is_product and set(r.fma) == {kind} and r.accumulators >= sums]
    if not found:
        raise MissingError(f"no loop of {sums} {kind} sums in the family {family}: is the tile another now?")
    return max(found, key=lambda row: (row.share, -row.address))


@dataclass(frozen=True)
class LoopOf:
    """A loop of a kernel by what it does: `stores` it or only loads, over so many streams of FP32 vectors."""

    family: str
    kernel: str
    stores: bool
    streams: int

    def cycles(self, rows: Sequence[Row]) -> float:
        """llvm-mca's cycles for one vector of every stream: the best of the kernel's loops of this kind, in which the
        wide ones come first."""
        found = [
            row.cycles * 64 * self.streams / (row.loaded_bytes + row.stored_bytes)
            for row in rows
            if row.family == self.family
            and re.search(self.kernel, f"{row.kernel} {row.function}")
            and bool(row.stored_bytes) == self.stores
            and row.loaded_bytes + row.stored_bytes >= 64 * self.streams
        ]
        if not found:
            raise MissingError(f"no loop of {self.kernel} in the family {self.family} that {self}")
        return min(found)


# The loops of one pass over the data, one after the other; the streams are those the loop itself touches.
PASSES: dict[str, tuple[LoopOf, ...]] = {
    "norm forward": (
        LoopOf("fused", "squares_of<false, float>|rms_norm$", False, 1),
        LoopOf("fused", "norm(_rows)?<float, false>|rms_norm$", True, 3),
    ),
    "norm backward": (
        LoopOf("fused", "norm_backward_row<float, false>|rms_norm_backward", False, 3),
        LoopOf("fused", "norm_backward_row<float, false>|rms_norm_backward", True, 6),
    ),
    "SwiGLU forward": (LoopOf("fused", "swiglu_rows?(<float>| )", True, 3),),
    "SwiGLU backward": (LoopOf("fused", "swiglu_backward_row<float>|swiglu_rows ", True, 5),),
    "loss forward": (LoopOf("loss", "take_block|forward_rows", False, 1),),
    "loss backward": (LoopOf("loss", "dlogits_rows|backward_rows", True, 2),),
    "AdamW": (LoopOf("fused", "adamw", True, 7),),
}

# Streams of a whole pass between a core and the memory: read, updated, written anew. Weights of a row stay in L1.
STREAMS: dict[str, tuple[int, int, int]] = {
    "norm forward": (1, 0, 1),
    "norm backward": (2, 0, 1),
    "SwiGLU forward": (2, 0, 1),
    "SwiGLU backward": (3, 0, 2),
    "loss forward": (1, 0, 0),
    "loss backward": (0, 1, 0),
    "AdamW": (1, 3, 0),
}


# The products of attention by the function that holds their loop: two forward, five backward (dK and dV are one).
ATTENTION: dict[str, tuple[str, ...]] = {
    "forward": ("score_tile", "channel_tile"),
    "backward": ("probability_tile", "slope_tile", "key_tile", "key_tile", "channel_tile"),
}
EXPONENTIAL = LoopOf("attention", "exponentials", True, 2)


def attention_loops(rows: Sequence[Row]) -> AttentionLoops:
    """The attention kernels' figures: the share that their products' main loops reach together, each with as many
    multiply-adds as another, and the exponential of forward's loop. Backward's stand behind each tile's loop, in line
    and as many at a time: forward's figure is taken for them too."""
    shares = [len(names) / sum(1 / _tile_share(rows, name) for name in names) for names in ATTENTION.values()]
    exp = EXPONENTIAL.cycles(rows)
    return AttentionLoops(*shares, exp, exp)


def _tile_share(rows: Sequence[Row], function: str) -> float:
    """The worst share among the instances of an attention tile that have enough sums to cover the latency."""
    found = [
        row.share
        for row in rows
        if row.family == "attention"
        and row.is_product
        and row.accumulators >= 20
        and re.match(rf"{function}\b", row.function)
    ]
    if not found:
        raise MissingError(f"no loop of {function} in the family attention: has it another name now?")
    return min(found)


def pass_cycles(rows: Sequence[Row]) -> dict[str, float]:
    """llvm-mca's cycles a vector of each pass."""
    return {name: sum(loop.cycles(rows) for loop in loops) for name, loops in PASSES.items()}
