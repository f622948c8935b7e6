"""Which instructions of a loop multiply and add, which spill, which are slow on the core: read from their text.

The slow ones of A64FX and why: A64FX Microarchitecture Manual 1.8.1, chapter 16 (instruction attributes).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.a64fx.assembly import Function, Instruction, Loop, is_call


@dataclass(frozen=True)
class Core:
    """What the judgement needs to know of a core.

    `fma_bytes`: bytes of vector multiply-adds that can start in a cycle, by the core's own manual; `mca`: options of
    llvm-mca; `chain_latency`: cycles from a multiply-add to one that takes its sum; `decode`: instructions a cycle.
    Zen 4 makes one of 64 bytes or two of 32; A64FX two of 64.
    """

    triple: str
    fma_bytes: int
    mca: tuple[str, ...]
    chain_latency: int
    decode: int


CORES = {
    "a64fx": Core("aarch64", 128, ("-mcpu=a64fx", "-dispatch=4", "-register-file-size=96"), 9, 4),
    "znver4": Core("x86_64", 64, ("-mcpu=znver4",), 4, 6),
    "znver3": Core("x86_64", 64, ("-mcpu=znver3",), 4, 6),
}

_ARM_FMA = re.compile(r"^(fn?m(la|ls|ad|sb)|fmlal[bt]|bfmlal[bt]|bfdot|[su]dot|bfmmla|fmmla)$")
_X86_FMA = re.compile(r"^(vfn?m(add|sub)\d+p[sdh]|vdpbf16ps|vpdp(busd|wssd)s?)$")
_X86_WIDTH = {"z": 64, "y": 32, "x": 16}
_Z = re.compile(r"\bz(\d+)\.([bhsdq])")
_STACK = re.compile(r"\[sp\b")
_ARM_MEMORY = re.compile(r"^(ld|st)")
_X86_STACK = re.compile(r"\(%rsp[,)]")
_X86_FRAME = re.compile(r"-(0x)?[0-9a-f]+\(%rbp[,)]")


def is_x86(function: Function) -> bool:
    """Told by the operands: AT&T syntax marks registers with a percent sign."""
    return any("%" in instruction.operands for instruction in function.instructions)


def element_type(instruction: Instruction, x86: bool) -> str:
    """What a multiply-add computes: "fp32", "fp64", "fp16", "bf16" or "int"; "" for other instructions."""
    if x86:
        if not _X86_FMA.match(instruction.mnemonic):
            return ""
        if instruction.mnemonic == "vdpbf16ps":
            return "bf16"
        return {"s": "fp32", "d": "fp64", "h": "fp16"}.get(instruction.mnemonic[-1], "int")
    if not _ARM_FMA.match(instruction.mnemonic):
        return ""
    if instruction.mnemonic[1:] == "dot" and instruction.mnemonic[0] in "su":
        return "int"
    register = re.search(r"\b[zv]\d+\.(\d*)([hsdb])", instruction.operands)
    return {"s": "fp32", "d": "fp64", "h": "fp16"}.get(register[2], "int") if register else ""


def width(instruction: Instruction, x86: bool) -> int:
    """Bytes of a multiply-add's vector."""
    if not x86:
        return 64 if "z" in instruction.operands else 16
    destination = re.search(r"%([xyz])mm\d+(?:\s*\{.*)?$", instruction.operands)
    return _X86_WIDTH[destination[1]] if destination else 0


def accumulator(instruction: Instruction, x86: bool) -> str:
    """The register that a multiply-add writes."""
    if not x86:
        return instruction.operands.split(",")[0].split(".")[0]
    found = re.findall(r"%[xyz]mm\d+", instruction.operands)
    return found[-1] if found else ""


def spills(loop: Loop, x86: bool) -> int:
    """Vectors that the loop's instructions load from or store to the stack frame."""
    if x86:
        framed = any(i.mnemonic.startswith("mov") and i.operands == "%rsp, %rbp" for i in loop.function.instructions)
        return sum(
            1
            for i in loop.path
            if re.search(r"%[xyz]mm", i.operands)
            and not i.mnemonic.startswith(("vbroadcast", "vpbroadcast"))
            and (_X86_STACK.search(i.operands) or (framed and _X86_FRAME.search(i.operands)))
        )
    framed = any(i.operands in ("x29, sp",) for i in loop.function.instructions)
    stack = re.compile(r"\[(sp|x29)\b") if framed else _STACK
    return sum(
        1
        for i in loop.path
        if _ARM_MEMORY.match(i.mnemonic)
        and not i.mnemonic.startswith("ld1r")
        and re.search(r"(^|\{ ?)[zqv]\d", i.operands)
        and stack.search(i.operands)
    )


_ARM_BYTES = {"b": 1, "h": 2, "w": 4, "d": 8}
_LANE_BYTES = {"b": 1, "h": 2, "s": 4, "d": 8}
_X86_SCALE = {"pmovzxwd": 2, "pmovsxwd": 2, "cvtph2ps": 2, "pmovdw": 2, "pmovusdw": 2, "cvtps2ph": 2, "pmovzxbd": 4}


def moved_bytes(instruction: Instruction, x86: bool) -> tuple[int, int]:
    """Bytes that a vector instruction (loads, stores) at the memory; a broadcast moves one element."""
    name, operands = instruction.mnemonic, instruction.operands
    if x86:
        registers = re.findall(r"%([xyz])mm", operands)
        if not registers or "(" not in operands:
            return 0, 0
        scale = next((value for key, value in _X86_SCALE.items() if key in name), 1)
        size = max(_X86_WIDTH[register] for register in registers) // scale
        if "broadcast" in name or "{1to" in operands:
            return 4, 0
        return (0, size) if operands.rstrip().endswith(")") else (size, 0)
    if not re.match(r"^(ld|st)", name) or not (found := re.search(r"\b([zqdsv])\d+(?:\.(\d*)([bhsdq]))?", operands)):
        return 0, 0
    if found[1] != "z":
        size = {"q": 16, "d": 8, "s": 4, "v": 16}[found[1]] * (2 if name in {"ldp", "stp"} else 1)
    elif name.startswith("ld1r"):
        size = {"ld1rqw": 16, "ld1rqh": 16}.get(name, 4)
    elif name in {"ldr", "str"}:
        size = 64
    else:
        memory = re.match(r"^(?:ldff1|ldnf1|ldnt1|stnt1|ld[1-4]|st[1-4])s?([bhwd])$", name)
        size = 64 * _ARM_BYTES[memory[1]] // _LANE_BYTES[found[3]] if memory and found[3] in _LANE_BYTES else 64
        size *= int(name[2]) if name[2] in "234" else 1
    return (size, 0) if name.startswith("ld") else (0, size)


# --- what A64FX does slowly --------------------------------------------------------------------------------------

_INDEXED = re.compile(r"z\d+\.[hsd]\[\d\]|v\d+\.[hsd]\[\d\]")
_SLOW = re.compile(r"^(fdivr?|fsqrt|fadd[av]|f(max|min)(nm)?v|[su](add|max|min)v)$")
_GATHER = re.compile(r"\[z\d+\.[sd]|, z\d+\.[sd]")


def slow_on_a64fx(instructions: Iterable[Instruction]) -> Iterator[tuple[Instruction, str]]:
    """Every instruction that a loop over data should do without, and its name."""
    previous: Instruction | None = None
    for instruction in instructions:
        name, operands = instruction.mnemonic, instruction.operands
        vector = bool(re.search(r"\bz\d", operands))
        if _ARM_FMA.match(name) and _INDEXED.search(operands):
            yield instruction, f"indexed {name}"
        elif _SLOW.match(name):
            yield instruction, name
        elif name.startswith(("ld1", "ldff1", "st1")) and _GATHER.search(operands[operands.find("[") :]):
            yield instruction, "gather" if name.startswith("ld") else "scatter"
        elif name in {"ldr", "str"} and operands.startswith("z"):
            yield instruction, f"{name} z"
        elif name.startswith("while"):
            yield instruction, "while"
        elif name == "movprfx" and previous is not None and previous.mnemonic == "movprfx":
            yield instruction, "movprfx chain"
        elif is_call(instruction):
            yield instruction, "call"
        if vector or name == "movprfx":
            previous = instruction


def vector_instructions(loop: Loop, x86: bool) -> int:
    """How many instructions of the loop touch a vector register."""
    pattern = re.compile(r"%[xyz]mm" if x86 else r"\b[zv]\d+\.|\bq\d+")
    return sum(1 for i in loop.path if pattern.search(i.operands))


_ARM_MOVES = re.compile(
    r"^(ld|st|prf|mov|movprfx|dup|fmov|fdup|ptrue|pfalse|while|cnt|inc|add|sub|index|addvl|b\.|cmp)"
)
_X86_MOVES = re.compile(r"^(v?mov|vp?broadcast|prefetch|vpxor|vxor)")


def other_arithmetic(loop: Loop, x86: bool) -> int:
    """How many instructions compute with vectors and are no multiply-adds; a loop of a product has none."""
    pattern = re.compile(r"%[xyz]mm" if x86 else r"\b[zv]\d+\.")
    moves = _X86_MOVES if x86 else _ARM_MOVES
    return sum(
        1 for i in loop.path if pattern.search(i.operands) and not element_type(i, x86) and not moves.match(i.mnemonic)
    )


def types_of(loop: Loop, x86: bool) -> Counter[str]:
    """Multiply-adds on vectors by element type."""
    found = Counter(element_type(i, x86) for i in loop.path)
    del found[""]
    return found
