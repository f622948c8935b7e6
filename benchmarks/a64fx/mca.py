"""Cycles of loops by llvm-mca: no misses, every branch foretold, so an upper bound of the speed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.a64fx.assembly import Instruction
from benchmarks.a64fx.classes import Core

# Cycles between the ends of these many iterations: the first ones fill the pipeline and are not counted.
_FEW, _MANY = 50, 150
_AT_ONCE = 64


@dataclass(frozen=True)
class Timing:
    """Cycles an iteration in the steady state and micro-operations an iteration."""

    cycles: float
    micro_ops: float


def time_loops(loops: Sequence[Sequence[Instruction]], core: Core, mca: str = "llvm-mca-19") -> list[Timing]:
    """The steady-state time of each loop. Instructions that the model has no timing for are left out by llvm-mca."""
    texts = [tuple(_timed_as(instruction) for instruction in loop) for loop in loops]
    distinct = list(dict.fromkeys(texts))
    timings = dict(zip(distinct, _time(distinct, core, mca), strict=True))
    return [timings[text] for text in texts]


def _time(loops: Sequence[tuple[str, ...]], core: Core, mca: str) -> list[Timing]:
    found = list[Timing]()
    for start in range(0, len(loops), _AT_ONCE):
        some = loops[start : start + _AT_ONCE]
        few, many = (_run(some, core, mca, iterations) for iterations in (_FEW, _MANY))
        found += [Timing((b[0] - a[0]) / (_MANY - _FEW), b[1] / _MANY) for a, b in zip(few, many, strict=True)]
    return found


# Where LLVM 19's model of Zen 4 is wrong, an instruction of the right timing stands in:
# - a broadcast from memory has a place in a shuffle pipe there; the chip makes it in the load unit, as it does a plain
#   load (Fog, Instruction tables, Zen 4: VBROADCASTSS z,m32 is one micro-operation, two a cycle);
# - VDPBF16PS of three registers takes three cycles there, with an operand from memory one. The chip starts one of 64
#   bytes a cycle, as many as multiply-adds (a loop of them in registers measured twice the FP32 rate).
_BROADCAST = re.compile(r"^vp?broadcast(ss|sd|d|q)$")


def _timed_as(instruction: Instruction) -> str:
    if _BROADCAST.match(instruction.mnemonic) and "(" in instruction.operands:
        return f"vmovups\t{instruction.operands}"
    if instruction.mnemonic == "vdpbf16ps":
        return f"vfmadd231ps\t{instruction.operands}"
    return instruction.text


def _run(loops: Sequence[tuple[str, ...]], core: Core, mca: str, iterations: int) -> list[tuple[int, int]]:
    """(cycles, micro-operations) of so many iterations of each loop."""
    lines = list[str]()
    for number, loop in enumerate(loops):
        # A name on both ends: without one llvm-mca ends no region that has a name.
        lines += [f"# LLVM-MCA-BEGIN loop{number}", *loop, f"# LLVM-MCA-END loop{number}"]
    command = [mca, f"-mtriple={core.triple}", *core.mca, f"-iterations={iterations}", "-json"]
    command += ["-skip-unsupported-instructions=any", "-"]
    text = "\n".join(lines) + "\n"
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"llvm-mca: {result.stderr.strip()[:400]}")
    regions = json.loads(result.stdout)["CodeRegions"]
    return [(region["SummaryView"]["TotalCycles"], region["SummaryView"]["TotaluOps"]) for region in regions]
