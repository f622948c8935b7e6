"""What the tiles of chunked FP16 and of 16-bit integers gain over the FP32 one on A64FX, by llvm-mca: a prediction
without caches.

    python -m benchmarks.a64fx.chunks

The loop over chunks is judged as it runs: its own instructions once (the FMUL that starts a chunk, the sums' way to
FP32), and chunk - 1 turns of the loop of multiply-adds inside it. Of the integers' tile a block of 512 steps is judged:
128 turns of its loop, and the shortest way to it and from it to the end of the function, which is that of a whole tile
of K's first block.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.a64fx import classes, toolchain
from benchmarks.a64fx.assembly import Function, Instruction, Loop, disassemble, find_loops, is_call
from benchmarks.a64fx.mca import time_loops

CHUNKS = (16, 32, 64, 128)
_A64FX = classes.CORES["a64fx"]
_SUMS = 20
BLOCK = 512  # steps of integers, as kernels/src/gemm/int16.h has it


@dataclass(frozen=True)
class Gain:
    """Cycles of one chunk or block of a tile, and how many times as fast as by the FP32 tile that is."""

    chunk: int
    cycles: float
    gain: float


def gains(path: Path, tools: toolchain.Tools | None = None, chunks: Iterable[int] = CHUNKS) -> list[Gain]:
    """The gain of each length of chunk in a library or object file of the sve512 units. Raises MissingError."""
    tools = tools or toolchain.Tools()
    functions = disassemble(path, tools.objdump, tools.cxxfilt)
    fp32 = _largest(functions, "tile<", "fp32")[1]
    function, inner = _largest(functions, "fp16_tile<", "fp16")
    outer = min(
        (
            loop
            for loop in find_loops(function)
            if loop is not inner and inner.path[0] in loop.all and not loop.innermost
        ),
        key=lambda loop: len(loop.all),
        default=None,
    )
    if outer is None:
        raise toolchain.MissingError(f"no loop over chunks around the multiply-adds of {function.name}")
    before = [i for i in outer.all if i.address < inner.address]
    after = [i for i in outer.all if i.address >= inner.address and i not in inner.all]
    turns = [[*before, *list(inner.path) * (chunk - 1), *after] for chunk in chunks]
    fp32_time, *times = time_loops([fp32.path, *turns], _A64FX, tools.mca)
    rate = 16 * classes.types_of(fp32, x86=False)["fp32"] / fp32_time.cycles
    work = 32 * classes.types_of(inner, x86=False)["fp16"]
    return [Gain(c, t.cycles, work * c / t.cycles / rate) for c, t in zip(chunks, times, strict=True)]


def integer_gain(path: Path, tools: toolchain.Tools | None = None) -> Gain:
    """The same of a block of integers. Raises MissingError."""
    tools = tools or toolchain.Tools()
    functions = disassemble(path, tools.objdump, tools.cxxfilt)
    fp32 = _largest(functions, "tile<", "fp32")[1]
    function, inner = _largest(functions, "int16_tile<", "int")
    header = inner.path[0].address
    before = _shortest(function, 0, lambda i: i.address == header)[:-1]
    last = next(n for n, i in enumerate(function.instructions) if i == inner.path[-1])
    after = _shortest(function, last + 1, lambda i: i.mnemonic == "ret")
    fp32_time, time = time_loops([fp32.path, [*before, *list(inner.path) * (BLOCK // 4), *after]], _A64FX, tools.mca)
    rate = 16 * classes.types_of(fp32, x86=False)["fp32"] / fp32_time.cycles
    work = 8 * BLOCK * classes.types_of(inner, x86=False)["int"]
    return Gain(BLOCK, time.cycles, work / time.cycles / rate)


def _shortest(function: Function, start: int, is_end: Callable[[Instruction], bool]) -> list[Instruction]:
    """The fewest instructions from the one of this number to an end, that one included."""
    numbers = {instruction.address: n for n, instruction in enumerate(function.instructions)}
    came_from: dict[int, int | None] = {start: None}
    ahead = deque([start])
    while ahead:
        at = ahead.popleft()
        instruction = function.instructions[at]
        if is_end(instruction):
            way = list[Instruction]()
            step: int | None = at
            while step is not None:
                way.append(function.instructions[step])
                step = came_from[step]
            return way[::-1]
        following = [] if instruction.mnemonic in ("b", "ret", "br") else [at + 1]
        if instruction.target is not None and instruction.target in numbers and not is_call(instruction):
            following.append(numbers[instruction.target])
        for step in following:
            if step < len(function.instructions) and step not in came_from:
                came_from[step] = at
                ahead.append(step)
    raise toolchain.MissingError(f"no way through {function.name}: is the tile another now?")


def _largest(functions: Iterable[Function], name: str, kind: str) -> tuple[Function, Loop]:
    found = [
        (function, loop)
        for function in functions
        if f"::{name}" in function.name
        for loop in find_loops(function)
        if loop.innermost and classes.types_of(loop, x86=False)[kind] >= _SUMS
    ]
    if not found:
        raise toolchain.MissingError(
            f"no loop of {_SUMS} {kind} multiply-adds in a {name}...>: is the tile another now?"
        )
    return max(found, key=lambda pair: classes.types_of(pair[1], x86=False)[kind])


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m benchmarks.a64fx.chunks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    try:
        toolchain.check_tools(toolchain.Tools())
        print("| compiler | arithmetic | cycles | times the FP32 tile's rate |\n|---|---|---|---|")
        for compiler in ("clang", "gcc"):
            with tempfile.TemporaryDirectory() as folder:
                library = toolchain.build(Path(folder), compiler, "sve512")
                for gain in gains(library):
                    print(f"| {compiler} | FP16, chunk {gain.chunk} | {gain.cycles:.0f} | {gain.gain:.2f} |")
                block = integer_gain(library)
                print(
                    f"| {compiler} | int16, block {block.chunk} | {block.cycles:.0f} | {block.gain:.2f} |", flush=True
                )
    except toolchain.MissingError as error:
        print(f"chunks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
