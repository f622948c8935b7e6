"""Instructions that a kernel for A64FX must not have in its loops, and where they are.

| instruction | why (A64FX Microarchitecture Manual 1.8.1) | forbidden in |
|---|---|---|
| indexed FMLA | two micro-operations: half the rate | every loop |
| FDIV, FSQRT | 98 cycles, and the pipe is blocked | every loop |
| gather, scatter | at least 4 cycles of both load ports | every loop |
| FADDV, FMAXV and the like | 9 micro-operations, 64 cycles | innermost loops; once a row is no fault |
| MOVPRFX before MOVPRFX | each costs a place in the pipes | innermost loops |
| WHILE, a call | WHILE is for tails | innermost loops that multiply and add |
| LDR z, STR z | one port; made where a compiler spills | innermost loops of products (sums in registers) |
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.a64fx import classes, toolchain
from benchmarks.a64fx.assembly import Loop, disassemble, find_loops
from benchmarks.a64fx.places import find_places, short_name

_EVERY_LOOP = ("indexed", "fdiv", "fsqrt", "gather", "scatter")
_LOOPS_THAT_MULTIPLY = ("while", "call")
_PRODUCTS = ("ldr z", "str z")


@dataclass(frozen=True)
class Fault:
    """A forbidden instruction, how often it is at one place, and in what kind of loop."""

    name: str
    kernel: str
    family: str
    line: str
    why: str
    count: int = 1


def forbidden(name: str, innermost: bool, multiplies: bool, product: bool = False) -> bool:
    """Whether an instruction (as classes.slow_on_a64fx names it) is a fault in a loop of this kind."""
    if name.startswith(_EVERY_LOOP):
        return True
    if not innermost or name in _PRODUCTS:
        return innermost and product
    return multiplies or name not in _LOOPS_THAT_MULTIPLY


def find_faults(path: Path, tools: toolchain.Tools | None = None) -> list[Fault]:
    """The faults of every loop of a library or object file for aarch64; an instruction of two loops counts once."""
    tools = tools or toolchain.Tools()
    found: dict[int, tuple[str, str, str]] = {}
    for function in disassemble(path, tools.objdump, tools.cxxfilt):
        loops = find_loops(function)
        main = max((_multiplies(loop) for loop in loops if loop.innermost and not _has_while(loop)), default=0)
        for loop in loops:
            why = _kind(loop)
            for address, name in _slow(loop):
                if name == "while" and _multiplies(loop) <= main:
                    continue  # a tail: the function has a loop without WHILE that does at least as much a turn
                if forbidden(name, loop.innermost, _multiplies(loop) > 0, _is_product(loop)):
                    found.setdefault(address, (name, why, short_name(function.name)))
    places = find_places(path, tools.symbolizer, list(found))
    counted = Counter(
        (name, place.kernel or function, place.family, place.line, why)
        for (name, why, function), place in zip(found.values(), places, strict=True)
    )
    return [Fault(*what, count) for what, count in sorted(counted.items())]


def _multiplies(loop: Loop) -> int:
    return sum(classes.types_of(loop, x86=False).values())


def _is_product(loop: Loop) -> bool:
    """Multiply-adds alone, whose sums no store of the loop takes (a spill's STR does not count)."""
    stores = any(i.mnemonic.startswith("st1") for i in loop.path)
    return _multiplies(loop) > 0 and not stores and classes.other_arithmetic(loop, x86=False) == 0


def _has_while(loop: Loop) -> bool:
    return any(name == "while" for _, name in classes.slow_on_a64fx(loop.all))


def _kind(loop: Loop) -> str:
    if not loop.innermost:
        return "in a loop around others"
    return "in a loop of multiply-adds" if _multiplies(loop) else "in an innermost loop"


def _slow(loop: Loop) -> list[tuple[int, str]]:
    return [(instruction.address, name) for instruction, name in classes.slow_on_a64fx(loop.all)]
