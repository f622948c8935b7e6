"""The loop over K of an FP32 micro-kernel of rows x vectors, as A64FX assembly, and the tiles that others publish.

Only the loop: a step loads the vectors of one operand, broadcasts the elements of the other (LD1RW) and multiplies
every pair. Written from the shapes alone; the libraries' own loops are unrolled and scheduled by hand, which changes
llvm-mca's figure by a hundredth at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.a64fx.assembly import Instruction, parse

_REGISTERS = 32


@dataclass(frozen=True)
class Tile:
    """A published micro-kernel.

    `rows`: broadcasts a step; `vectors`: vectors of 16 FP32 a step; `streamed_bytes`: what comes from L2 in a step, by
    the library's order of loops; `measured`: share of peak on the chip, None where nobody published one.
    """

    name: str
    rows: int
    vectors: int
    streamed_bytes: int
    measured: float | None
    source: str
    packed_rows: bool = True

    @property
    def multiply_adds(self) -> int:
        return self.rows * self.vectors


# The packed vectors stream; the broadcast operand of one tile stays in L1. BLIS's own share is of its whole SGEMM.
TILES = (
    Tile("BLIS 2VL x 10", 10, 2, 128, 0.89, "BLIS, docs/Performance.md, A64FX, SGEMM on one core"),
    Tile("Arm 8 x 3VL", 8, 3, 192, 0.83, "Arm Compute Library, its constants for a64fx_interleaved_fp32_mla_8x3VL"),
    Tile("Arm 6 x 4VL", 6, 4, 256, 0.80, "Arm Compute Library, its constants for a64fx_hybrid_fp32_mla_6x4VL", False),
    Tile("OpenBLAS 2VL x 8", 8, 2, 128, None, "OpenBLAS, KERNEL.A64FX"),
    Tile("5 x 4VL", 5, 4, 256, None, "libxsmm-like"),
)


def loop(tile: Tile) -> tuple[Instruction, ...]:
    """The instructions of one step of K."""
    vectors = [f"z{v}" for v in range(tile.vectors)]
    sums = [[f"z{tile.vectors + r * tile.vectors + v}" for v in range(tile.vectors)] for r in range(tile.rows)]
    free = [f"z{n}" for n in range(tile.vectors + tile.multiply_adds, _REGISTERS)]
    lines = [f"ld1w {{ {z}.s }}, p0/z, [x1, #{v}, mul vl]" for v, z in enumerate(vectors)]
    for row in range(tile.rows):
        element = free[row % len(free)]
        place = f"[x2, #{4 * row}]" if tile.packed_rows else f"[x{3 + row}]"
        lines.append(f"ld1rw {{ {element}.s }}, p0/z, {place}")
        lines += [f"fmla {sums[row][v]}.s, p0/m, {z}.s, {element}.s" for v, z in enumerate(vectors)]
    lines.append(f"addvl x1, x1, #{tile.vectors}")
    lines += (
        [f"add x2, x2, #{4 * tile.rows}"]
        if tile.packed_rows
        else [f"add x{3 + r}, x{3 + r}, #4" for r in range(tile.rows)]
    )
    lines += ["subs x0, x0, #1", "b.ne 0 <loop>"]
    text = ["0000000000000000 <loop>:", *(f"{4 * n:x}: {line.replace(' ', chr(9), 1)}" for n, line in enumerate(lines))]
    return next(parse(text)).instructions
