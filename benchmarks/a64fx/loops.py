"""Judges the inner loops of the kernels without the processor: disassembly and llvm-mca.

    python -m benchmarks.a64fx.loops                          A64FX, by clang (the compiler of the wheels)
    python -m benchmarks.a64fx.loops --compiler gcc --all     every loop with vectors, not only multiply-add loops
    python -m benchmarks.a64fx.loops --isa avx512bf16         the same for Zen 4, on a machine without AVX-512
    python -m benchmarks.a64fx.loops --object build/x.o --core znver4

A row is an innermost loop: its kernel (the innermost inlined function of this project outside kernels/simd), cycles of
its longest way round, multiply-adds and the share of the core's multiply-add peak, accumulators, loads and stores,
vectors spilled, and (A64FX) instructions that the core is slow at. llvm-mca knows no cache: shares are upper bounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.a64fx import classes, toolchain
from benchmarks.a64fx.assembly import Instruction, Loop, disassemble, find_loops
from benchmarks.a64fx.faults import Fault, find_faults
from benchmarks.a64fx.mca import time_loops
from benchmarks.a64fx.places import find_places, short_name

CORE_OF_ISA = {"sve512": "a64fx", "sve256": "a64fx", "avx512": "znver4", "avx512bf16": "znver4", "avx2": "znver3"}


@dataclass(frozen=True)
class Row:
    """One innermost loop, judged. `share` is of the core's peak of multiply-adds; `fma` counts them by element type.

    `other` counts vector arithmetic beside them: 0 in the loop of a product. `accumulators` is how many registers
    multiply-adds write and `chain` how many of them write the busiest, one after the other.
    `loaded_bytes` counts a broadcast as its one element. `slow` names what A64FX is slow at, as often as it is there.
    """

    kernel: str
    family: str
    function: str
    line: str
    address: int
    blocks: int
    instructions: int
    cycles: float
    micro_ops: float
    fma: dict[str, int]
    share: float
    other: int
    accumulators: int
    chain: int
    loads: int
    stores: int
    loaded_bytes: int
    stored_bytes: int
    spills: int
    slow: dict[str, int]

    @property
    def multiply_adds(self) -> int:
        return sum(self.fma.values())

    @property
    def is_product(self) -> bool:
        """The loop over K of a matrix product: multiply-adds into registers, loads and nothing else."""
        return self.multiply_adds > 0 and self.other == 0 and self.stores == 0

    def bound(self, core: classes.Core) -> float:
        """The share of the peak that the loop's own counts allow: two loads a cycle, four instructions decoded, and
        each chain of multiply-adds one a latency."""
        slots = max(
            self.multiply_adds * 64 / core.fma_bytes,
            (self.loads + self.stores) / 2,
            self.instructions / core.decode,
            self.chain * core.chain_latency,
        )
        return self.multiply_adds * 64 / core.fma_bytes / slots


def judge(path: Path, core: classes.Core, tools: toolchain.Tools | None = None, everything: bool = False) -> list[Row]:
    """The innermost loops of an object file or library with vector multiply-adds; `everything`: with any vectors."""
    tools = tools or toolchain.Tools()
    functions = disassemble(path, tools.objdump, tools.cxxfilt)
    x86 = any(classes.is_x86(function) for function in functions)
    loops = [loop for function in functions for loop in find_loops(function) if loop.innermost]
    loops = [
        loop for loop in loops if classes.types_of(loop, x86) or (everything and classes.vector_instructions(loop, x86))
    ]
    if not loops:
        return []
    timings = time_loops([loop.path for loop in loops], core, tools.mca)
    places = find_places(path, tools.symbolizer, [_anchor(loop, x86).address for loop in loops])
    rows = []
    for loop, timing, place in zip(loops, timings, places, strict=True):
        fmas = [i for i in loop.path if classes.element_type(i, x86)]
        written = Counter(classes.accumulator(i, x86) for i in fmas)
        cycles = max(timing.cycles, 0.01)
        moved = [classes.moved_bytes(i, x86) for i in loop.path]
        rows.append(
            Row(
                kernel=place.kernel or short_name(loop.function.name),
                family=place.family,
                function=short_name(loop.function.name),
                line=place.line,
                address=loop.address,
                blocks=loop.blocks,
                instructions=len(loop.path),
                cycles=cycles,
                micro_ops=timing.micro_ops,
                fma=dict(classes.types_of(loop, x86)),
                share=sum(classes.width(i, x86) for i in fmas) / cycles / core.fma_bytes,
                other=classes.other_arithmetic(loop, x86),
                accumulators=len(written),
                chain=max(written.values(), default=0),
                loads=sum(1 for load, _ in moved if load),
                stores=sum(1 for _, store in moved if store),
                loaded_bytes=sum(load for load, _ in moved),
                stored_bytes=sum(store for _, store in moved),
                spills=classes.spills(loop, x86),
                slow={} if x86 else dict(Counter(name for _, name in classes.slow_on_a64fx(loop.all))),
            )
        )
    return rows


def _anchor(loop: Loop, x86: bool) -> Instruction:
    """The instruction whose place in the source names the loop: its middle multiply-add, or vector instruction."""
    fmas = [i for i in loop.path if classes.element_type(i, x86)]
    return fmas[len(fmas) // 2] if fmas else loop.path[len(loop.path) // 2]


# --- the command -------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """The rows as text, one a line, in the order of their families and kernels."""
    lines = [
        f"{'kernel':56} {'where':22} {'cycles':>7} {'multiply-adds':>14} {'share':>6} {'acc':>3} {'ld':>3} {'st':>3}"
        f" {'B/cycle':>7} {'spill':>5}  slow"
    ]
    for row in sorted(rows, key=lambda row: (row.family, row.kernel, -row.multiply_adds)):
        counts = " ".join(f"{count} {name}" for name, count in row.fma.items()) or "-"
        slow = ", ".join(f"{name} x{count}" if count > 1 else name for name, count in row.slow.items())
        kernel = f"{row.family}: {row.kernel}" if row.family else row.kernel
        kernel += "" if row.kernel == row.function else f" in {row.function}"
        branches = "" if row.blocks == 1 else f" ({row.blocks} blocks)"
        lines.append(
            f"{kernel[:56]:56} {row.line[:22]:22} {row.cycles:7.2f} {counts:>14} {100 * row.share:5.1f}%"
            f" {row.accumulators:3} {row.loads:3} {row.stores:3}"
            f" {(row.loaded_bytes + row.stored_bytes) / row.cycles:7.1f} {row.spills:5}  {slow}{branches}"
        )
    return "\n".join(lines)


def _fault_line(fault: Fault) -> str:
    times = f" x{fault.count}" if fault.count > 1 else ""
    return f"forbidden: {fault.name}{times} in {fault.family}: {fault.kernel}, {fault.line}, {fault.why}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.a64fx.loops", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--compiler", choices=["gcc", "clang"], default="clang")
    parser.add_argument("--isa", choices=sorted(CORE_OF_ISA), default="sve512")
    parser.add_argument("--object", type=Path, help="judge this object file or library instead of building the units")
    parser.add_argument("--core", choices=sorted(classes.CORES), help="the core (default: the instruction set's)")
    parser.add_argument("--source", type=Path, default=toolchain.ROOT, help="the tree to build (default: this one)")
    parser.add_argument("--kernel", default="", help="only kernels whose name or family matches this expression")
    parser.add_argument("--all", action="store_true", help="also loops with vectors but without multiply-adds")
    parser.add_argument("--code", action="store_true", help="print each loop's instructions too")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    core = classes.CORES[arguments.core or CORE_OF_ISA[arguments.isa]]
    try:
        tools = toolchain.Tools()
        toolchain.check_tools(tools)
        with tempfile.TemporaryDirectory() as folder:
            path = arguments.object or toolchain.build(
                Path(folder), arguments.compiler, arguments.isa, arguments.source.resolve()
            )
            rows = [
                row
                for row in judge(path, core, tools, arguments.all)
                if re.search(arguments.kernel, f"{row.family}: {row.kernel}")
            ]
            faults = [] if core.triple != "aarch64" else find_faults(path, tools)
            code = _code(path, tools, rows) if arguments.code else {}
    except toolchain.MissingError as error:
        print(f"loops: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        for row in rows:
            print(json.dumps(dataclasses.asdict(row)))
    else:
        print(table(rows))
        print("\n".join(["", *(_fault_line(fault) for fault in faults)]) if faults else "no forbidden instruction")
    for row in rows if arguments.code else ():
        print(f"\n{row.kernel} ({row.line}), {row.cycles:.2f} cycles\n{code[row.address]}")
    return 0


def _code(path: Path, tools: toolchain.Tools, rows: list[Row]) -> dict[int, str]:
    wanted = {row.address for row in rows}
    loops = (loop for function in disassemble(path, tools.objdump, tools.cxxfilt) for loop in find_loops(function))
    return {
        loop.address: "\n".join(f"    {i.text}" for i in loop.path)
        for loop in loops
        if loop.innermost and loop.address in wanted
    }


if __name__ == "__main__":
    sys.exit(main())
