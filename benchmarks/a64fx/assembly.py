"""Disassembled functions and their innermost loops: blocks, dominators, natural loops.

A loop here is a natural loop (Aho, Lam, Sethi, Ullman, *Compilers*, 2nd edition, 9.6): the blocks that reach a branch
back to a block that dominates it. Loops with one header are one loop.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One line of the disassembly; `target` is where a direct branch goes."""

    address: int
    mnemonic: str
    operands: str
    target: int | None = None

    @property
    def text(self) -> str:
        """What an assembler takes; a branch goes to an undefined label, for where it goes does not matter there."""
        return f"{self.mnemonic}\t{self.operands}"


@dataclass(frozen=True)
class Function:
    """A symbol and its instructions in the order of their addresses."""

    name: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class Loop:
    """A loop of a function.

    `path` are the instructions of its longest way round, which is the loop itself where `blocks` is 1; `innermost`
    says that it holds no other loop; `all` are its instructions, those of loops inside it included.
    """

    function: Function
    path: tuple[Instruction, ...]
    all: tuple[Instruction, ...]
    blocks: int
    innermost: bool

    @property
    def address(self) -> int:
        return self.path[0].address


_SYMBOL = re.compile(r"^([0-9a-f]+) <(.*)>:$")
_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*?)\s*$")
_TARGET = re.compile(r"(?:^|[\s,])(?:0x)?([0-9a-f]+)\s*<[^>]*>$")
_PREFIXES = frozenset({"rep", "repz", "repe", "repne", "lock", "data16", "notrack", "bnd"})


def disassemble(path: Path, objdump: str, cxxfilt: str) -> list[Function]:
    """The functions of an object file or library, by llvm-objdump; names are demangled."""
    command = [objdump, "-d", "--no-show-raw-insn", "--no-print-imm-hex", str(path)]
    found = list(parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()))
    mangled = "".join(f"{function.name}\n" for function in found)
    names = subprocess.run([cxxfilt], input=mangled, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Function(name, function.instructions) for name, function in zip(names, found, strict=True)]


def parse(lines: Iterable[str]) -> Iterator[Function]:
    """The functions in llvm-objdump's output."""
    name, body = "", list[Instruction]()
    for line in lines:
        if symbol := _SYMBOL.match(line):
            if body:
                yield Function(name, tuple(body))
            name, body = symbol[2], []
        elif match := _LINE.match(line):
            body.append(_instruction(int(match[1], 16), match[2], match[3]))
    if body:
        yield Function(name, tuple(body))


def _instruction(address: int, mnemonic: str, operands: str) -> Instruction:
    operands = re.split(r"\s*(?://|# )", operands)[0].strip()
    if mnemonic in _PREFIXES and operands:
        mnemonic, _, operands = operands.partition(" ")
        operands = operands.strip()
    target = _TARGET.search(operands)
    if target is None:
        return Instruction(address, mnemonic, operands)
    return Instruction(address, mnemonic, operands[: target.start(1)].removesuffix("0x") + "away", int(target[1], 16))


# --- control flow ------------------------------------------------------------------------------------------------

_ARM_CONDITIONAL = re.compile(r"^(b\.\w+|bc\.\w+|cbn?z|tbn?z)$")
_PADDING = re.compile(r"^(nop\w*|xchg\w*|int3|udf|hlt)$")
_X86_CONDITIONAL = re.compile(r"^j(?!mp)\w+$|^loop\w*$")


def is_call(instruction: Instruction) -> bool:
    """A call of a function: the time of what is called is in no figure here."""
    return instruction.mnemonic in {"bl", "blr", "call", "callq"}


def _ends(instruction: Instruction) -> str:
    """How control leaves: "" it goes on, "either" a conditional branch, "jump", "away" for returns and the like."""
    name = instruction.mnemonic
    if _ARM_CONDITIONAL.match(name) or (_X86_CONDITIONAL.match(name) and name != "jmp"):
        return "either"
    if name in {"b", "jmp", "jmpq"}:
        return "jump" if instruction.target is not None else "away"
    return "away" if name in {"ret", "retq", "br", "udf", "brk", "ud2", "hlt", "int3"} else ""


def _blocks(function: Function) -> tuple[list[tuple[Instruction, ...]], list[list[int]]]:
    """Basic blocks in the order of their addresses and each one's successors."""
    code = function.instructions
    here = {instruction.address for instruction in code}
    leaders = {code[0].address}
    for instruction, following in itertools.pairwise(code):
        if _ends(instruction):
            leaders.add(following.address)
    leaders.update(i.target for i in code if _ends(i) in {"either", "jump"} and i.target in here)  # type: ignore[misc]
    blocks = list[list[Instruction]]()
    for instruction in code:
        if instruction.address in leaders:
            blocks.append([])
        blocks[-1].append(instruction)
    number = {block[0].address: index for index, block in enumerate(blocks)}
    successors = list[list[int]]()
    for index, block in enumerate(blocks):
        way = _ends(block[-1])
        out = []
        if way in {"either", "jump"} and block[-1].target in number:
            out.append(number[block[-1].target])  # type: ignore[index]
        if way in {"", "either"} and index + 1 < len(blocks):
            out.append(index + 1)
        successors.append(out)
    _reconnect(blocks, successors)
    return [tuple(block) for block in blocks], successors


def _reconnect(blocks: list[list[Instruction]], successors: list[list[int]]) -> None:
    """Takes away the ways out of padding behind jumps, and gives jumps through a register those blocks that nothing
    else leads to."""
    reached = {successor for out in successors for successor in out}
    orphans = [index for index in range(1, len(blocks)) if index not in reached]
    padding = [index for index in orphans if all(_PADDING.match(i.mnemonic) for i in blocks[index])]
    for index in padding:
        successors[index] = []
    for index, block in enumerate(blocks):
        if block[-1].mnemonic in {"br", "jmp", "jmpq"} and _ends(block[-1]) == "away":
            successors[index] = [orphan for orphan in orphans if orphan not in padding]


def _order(successors: list[list[int]], entries: list[int]) -> list[int]:
    """Blocks in reverse postorder."""
    seen, postorder = set[int](), list[int]()
    for entry in entries:
        if entry in seen:
            continue
        seen.add(entry)
        stack = [(entry, iter(successors[entry]))]
        while stack:
            block, following = stack[-1]
            successor = next((s for s in following if s not in seen), None)
            if successor is None:
                postorder.append(block)
                stack.pop()
            else:
                seen.add(successor)
                stack.append((successor, iter(successors[successor])))
    return postorder[::-1]


def _dominators(successors: list[list[int]]) -> list[int]:
    """For each block the set of blocks that dominate it, as the bits of a number. Blocks that nothing leads to count
    as entries."""
    count = len(successors)
    predecessors: list[list[int]] = [[] for _ in range(count)]
    for block, out in enumerate(successors):
        for successor in out:
            predecessors[successor].append(block)
    entries = [block for block in range(count) if block == 0 or not predecessors[block]]
    order = _order(successors, entries)
    everything = (1 << count) - 1
    dominators = [everything] * count
    for entry in entries:
        dominators[entry] = 1 << entry
    changed = True
    while changed:
        changed = False
        for block in order:
            if block in entries:
                continue
            common = everything
            for predecessor in predecessors[block]:
                common &= dominators[predecessor]
            common |= 1 << block
            if common != dominators[block]:
                dominators[block], changed = common, True
    return dominators


def find_loops(function: Function) -> list[Loop]:
    """Every natural loop of a function, in the order of their headers' addresses."""
    blocks, successors = _blocks(function)
    dominators = _dominators(successors)
    predecessors: list[list[int]] = [[] for _ in blocks]
    for block, out in enumerate(successors):
        for successor in out:
            predecessors[successor].append(block)
    bodies: dict[int, set[int]] = {}
    latches: dict[int, set[int]] = {}
    for block, out in enumerate(successors):
        for header in out:
            if not dominators[block] >> header & 1:
                continue
            body = bodies.setdefault(header, {header})
            latches.setdefault(header, set()).add(block)
            waiting = [block]
            while waiting:
                found = waiting.pop()
                if found not in body:
                    body.add(found)
                    waiting.extend(predecessors[found])
    loops = []
    for header, body in sorted(bodies.items()):
        innermost = not any(other != header and other in body for other in bodies)
        way = _longest(blocks, successors, header, body, latches[header]) if innermost else sorted(body)
        loops.append(
            Loop(
                function,
                tuple(instruction for block in way for instruction in blocks[block]),
                tuple(instruction for block in sorted(body) for instruction in blocks[block]),
                len(body),
                innermost,
            )
        )
    return loops


def _longest(
    blocks: list[tuple[Instruction, ...]], successors: list[list[int]], header: int, body: set[int], latches: set[int]
) -> list[int]:
    """The way from the header to a branch back that has the most instructions; the loop holds no other loop."""
    inside = [[s for s in out if s in body and s != header] for out in successors]
    best: dict[int, tuple[int, list[int]]] = {header: (len(blocks[header]), [header])}
    for block in _order(inside, [header]):
        if block not in best:
            continue
        length, way = best[block]
        for successor in inside[block]:
            longer = length + len(blocks[successor])
            if longer > best.get(successor, (0, []))[0]:
                best[successor] = (longer, [*way, successor])
    return max((best[latch] for latch in latches if latch in best), key=lambda found: found[0])[1]
