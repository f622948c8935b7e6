"""The search for loops in a disassembly and the judgement of their instructions (benchmarks/a64fx), on text alone."""

from __future__ import annotations

import pytest

from benchmarks.a64fx import classes
from benchmarks.a64fx.assembly import Function, Instruction, Loop, find_loops, parse
from benchmarks.a64fx.faults import forbidden
from benchmarks.a64fx.places import short_name


def function(*lines: str) -> Function:
    """A function of lines at addresses 0, 4, ...; a branch names its target's address as objdump does."""
    return next(parse(["0000000000000000 <f>:", *(f"       {4 * n:x}: {line}" for n, line in enumerate(lines))]))


def one_loop(*lines: str) -> Loop:
    loops = find_loops(function(*lines, "subs x0, x0, #1", "b.ne 0x0 <f+0x0>", "ret"))
    assert len(loops) == 1
    return loops[0]


def test_a_loop_of_one_block():
    loops = find_loops(function("mov x0, #4", "add x1, x1, #1", "subs x0, x0, #1", "b.ne 0x4 <f+0x4>", "ret"))
    assert [(loop.address, loop.innermost, loop.blocks) for loop in loops] == [(4, True, 1)]
    assert [i.mnemonic for i in loops[0].path] == ["add", "subs", "b.ne"]
    assert loops[0].path[-1].text == "b.ne\taway"


def test_the_inner_of_two_loops():
    code = function(
        "mov x0, #4",  # 0
        "mov x1, #4",  # 4, outer header
        "add x2, x2, #1",  # 8, inner header
        "subs x1, x1, #1",
        "b.ne 0x8 <f+0x8>",
        "subs x0, x0, #1",
        "b.ne 0x4 <f+0x4>",
        "ret",
    )
    loops = find_loops(code)
    assert [(loop.address, loop.innermost) for loop in loops] == [(4, False), (8, True)]
    assert len(loops[0].all) == 6


def test_the_longest_way_round():
    code = function(
        "cbz x3, 0xc <f+0xc>",  # 0, header: to c, or through 4 and 8
        "add x2, x2, #1",
        "add x2, x2, #2",
        "subs x0, x0, #1",  # c
        "b.ne 0x0 <f+0x0>",
        "ret",
    )
    (loop,) = find_loops(code)
    assert loop.blocks == 3
    assert [i.address for i in loop.path] == [0, 4, 8, 12, 16]


def test_no_loop_where_a_jump_back_leads_elsewhere():
    assert find_loops(function("b 0x8 <f+0x8>", "ret", "b 0x4 <f+0x4>")) == []


def test_padding_behind_a_jump_is_no_way_in():
    code = function(
        "b 0x8 <f+0x8>",
        "nop",  # falls into the loop's header, but nothing reaches it
        "subs x0, x0, #1",  # 8
        "b.ne 0x8 <f+0x8>",
        "cbnz x1, 0x0 <f+0x0>",
        "ret",
    )
    assert [(loop.address, loop.innermost) for loop in find_loops(code)] == [(0, False), (8, True)]


def test_a_jump_through_a_register_leads_to_what_nothing_else_does():
    code = function("br x9", "add x1, x1, #1", "subs x0, x0, #1", "b.ne 0x0 <f+0x0>", "ret")
    assert [loop.address for loop in find_loops(code)] == [0]


def test_names_with_angle_brackets_do_not_hide_a_target():
    lines = ["0000000000000010 <_Z4tileILi8EEvv>:", "  10: add x1, x1, #1", "  14: b.ne 0x10 <_Z4tileILi8EEvv+0x0>"]
    (found,) = parse(lines)
    assert found.instructions[1].target == 0x10
    assert len(find_loops(found)) == 1


def test_x86_loops():
    lines = [
        "0 <f>:",
        "  0: vfmadd231ps\t(%rax), %zmm1, %zmm2",
        "  6: addq\t$0x40, %rax",
        "  a: jne\t0x0 <f>",
        "  c: retq",
    ]
    (found,) = parse(["0000000000000000 <f>:", *lines[1:]])
    (loop,) = find_loops(found)
    assert classes.types_of(loop, x86=True) == {"fp32": 1}
    assert classes.width(loop.path[0], x86=True) == 64
    assert classes.moved_bytes(loop.path[0], x86=True) == (64, 0)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("fmla z0.s, z1.s, z2.s[1]", "indexed fmla"),
        ("fdiv z0.s, p0/m, z0.s, z1.s", "fdiv"),
        ("fdiv s0, s0, s1", "fdiv"),
        ("fsqrt z0.s, p0/m, z1.s", "fsqrt"),
        ("faddv s0, p0, z1.s", "faddv"),
        ("fmaxv s0, p0, z1.s", "fmaxv"),
        ("ld1w { z0.s }, p0/z, [x0, z1.s, uxtw #2]", "gather"),
        ("ld1w { z0.d }, p0/z, [z1.d, #4]", "gather"),
        ("st1w { z0.s }, p0, [x0, z1.s, sxtw #2]", "scatter"),
        ("ldr z0, [sp, #1, mul vl]", "ldr z"),
        ("str z0, [x0]", "str z"),
        ("whilelt p0.s, w0, w1", "while"),
        ("bl 0x100 <expf>", "call"),
    ],
)
def test_what_a64fx_is_slow_at(line, name):
    assert [found for _, found in classes.slow_on_a64fx(one_loop(line).path)] == [name]


def test_chains_of_movprfx():
    ((_, name),) = classes.slow_on_a64fx(one_loop("movprfx z0, z1", "movprfx z2, z3").path)
    assert name == "movprfx chain"
    assert not list(classes.slow_on_a64fx(one_loop("movprfx z0, z1", "fmla z0.s, p0/m, z2.s, z3.s").path))


@pytest.mark.parametrize(
    "line",
    [
        "fmla z0.s, p0/m, z1.s, z2.s",
        "ld1w { z0.s }, p0/z, [x0, x1, lsl #2]",
        "ld1rw { z0.s }, p0/z, [x0, #4]",
        "frecpe z0.s, z1.s",
        "ldr x0, [sp, #8]",
        "fmul z0.s, z1.s, z2.s",
    ],
)
def test_what_a64fx_does_well(line):
    assert not list(classes.slow_on_a64fx(one_loop(line).path))


def test_spills_are_vectors_of_the_stack():
    loop = one_loop(
        "ldr z0, [sp, #1, mul vl]", "st1w { z1.s }, p0, [sp, #2, mul vl]", "ld1w { z2.s }, p0/z, [x0]", "ldr x1, [sp]"
    )
    assert classes.spills(loop, x86=False) == 2


def test_accumulators_and_types():
    fmas = one_loop("fmla z0.s, p0/m, z1.s, z2.s", "fmad z3.h, p0/m, z1.h, z2.h", "fmla z0.s, p0/m, z4.s, z5.s")
    assert classes.types_of(fmas, x86=False) == {"fp32": 2, "fp16": 1}
    assert [classes.accumulator(i, False) for i in fmas.path[:3]] == ["z0", "z3", "z0"]


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("ld1w { z0.s }, p0/z, [x0]", (64, 0)),
        ("ld1h { z0.s }, p0/z, [x0]", (32, 0)),
        ("ld1h { z0.h }, p0/z, [x0]", (64, 0)),
        ("ld2w { z0.s, z1.s }, p0/z, [x0]", (128, 0)),
        ("ld1rw { z0.s }, p0/z, [x0]", (4, 0)),
        ("st1w { z0.s }, p0, [x0]", (0, 64)),
        ("ldr q0, [x0]", (16, 0)),
        ("prfm pldl1keep, [x0]", (0, 0)),
        ("ldr x0, [x1]", (0, 0)),
    ],
)
def test_bytes_moved(line, moved):
    name, _, operands = line.partition(" ")
    assert classes.moved_bytes(Instruction(0, name, operands), x86=False) == moved


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void jpllm::sve512::(anonymous namespace)::tile<8>(long, float const*)", "tile<8>"),
        ("jpllm::sve512::(anonymous namespace)::gemm(jpllm::GemmArgs const&, int)::'lambda'(int)::__invoke()", "gemm"),
        ("multiply_tile<8, 3>", "multiply_tile<8, 3>"),
        ("stream<(lambda at /a/b.h:53:15)>", "stream<lambda>"),
    ],
)
def test_short_names(name, short):
    assert short_name(name) == short


def test_where_an_instruction_is_forbidden():
    for name in ("indexed fmla", "fdiv", "fsqrt", "gather", "scatter"):
        assert forbidden(name, innermost=False, multiplies=False)
    for name in ("faddv", "movprfx chain"):
        assert forbidden(name, innermost=True, multiplies=False)
        assert not forbidden(name, innermost=False, multiplies=True)
    for name in ("while", "call"):
        assert forbidden(name, innermost=True, multiplies=True)
        assert not forbidden(name, innermost=True, multiplies=False)
    for name in ("ldr z", "str z"):
        assert forbidden(name, innermost=True, multiplies=True, product=True)
        assert not forbidden(name, innermost=True, multiplies=True, product=False)
        assert not forbidden(name, innermost=False, multiplies=True, product=True)
