"""The machine code of the kernels for A64FX, as GCC and clang make it: the share of the multiply-add peak that
llvm-mca gives their inner loops, and instructions that the core is slow at (benchmarks/a64fx)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest

from benchmarks.a64fx import classes, toolchain, tuning
from benchmarks.a64fx.chunks import Gain, gains, integer_gain
from benchmarks.a64fx.faults import Fault, find_faults
from benchmarks.a64fx.loops import Row, judge
from tests.kernels.builds import PATIENCE, objects_of

pytestmark = [pytest.mark.builds, pytest.mark.a64fx, pytest.mark.timeout(2 * PATIENCE)]

A64FX = classes.CORES["a64fx"]
FAMILIES = sorted(unit.parent.name for unit in toolchain.ROOT.glob("kernels/src/*/unit.cpp"))
# 18 sums just cover the latency of 9 on two pipes. A loop with so few or fewer is held to what its counts allow.
ENOUGH_SUMS = 20
SHARE = 0.95

# (family, name of the kernel or of the function it is in, element type, at least so many sums): loops that must be
# there, so that no check passes for having seen nothing.
MUST_SEE = (
    ("gemm", "tile", "fp32", ENOUGH_SUMS),
    ("gemm", "fp16_tile", "fp16", ENOUGH_SUMS),
    ("gemm", "int16_tile", "int", ENOUGH_SUMS),
    ("probe", "fma", "fp32", ENOUGH_SUMS),
    *(("attention", name, "fp32", ENOUGH_SUMS) for names in tuning.ATTENTION.values() for name in names),
)


@dataclass(frozen=True)
class Code:
    """What one compiler made of the sve512 units."""

    rows: list[Row]
    faults: list[Fault]
    gains: list[Gain]
    integers: Gain


@pytest.fixture(scope="module")
def code(sve_build) -> Code:
    assert shutil.which("llvm-mca-19"), f"llvm-mca-19 is missing: apt-get install {toolchain.PACKAGES}"
    library = toolchain.link(sve_build / "sve512.so", "sve512", objects_of(sve_build, "sve512"))
    return Code(judge(library, A64FX), find_faults(library), gains(library, chunks=[32]), integer_gain(library))


def told(row: Row) -> str:
    return f"{row.family}: {row.kernel}, {row.line}: {100 * row.share:.1f}% of two multiply-adds a cycle, {row.fma}"


def test_loops_of_every_family_are_seen(code):
    assert {row.family for row in code.rows} >= set(FAMILIES)
    for family, name, kind, sums in MUST_SEE:
        named = [row for row in code.rows if row.family == family and name in f"{row.kernel} {row.function}"]
        assert [row for row in named if row.fma.get(kind) and row.accumulators >= sums], (family, name, kind)


def test_products_reach_95_percent_of_the_multiply_add_peak(code):
    products = [row for row in code.rows if row.is_product and set(row.fma) in ({"fp32"}, {"fp16"}, {"int"})]
    main = [row for row in products if row.accumulators >= ENOUGH_SUMS]
    assert {row.family for row in main} >= {family for family, *_ in MUST_SEE}
    assert [told(row) for row in main if row.share < SHARE] == []


def test_smaller_tiles_reach_95_percent_of_what_their_sums_allow(code):
    smaller = [
        row for row in code.rows
        if row.is_product and row.family in ("gemm", "attention") and row.accumulators < ENOUGH_SUMS
    ]  # fmt: skip
    assert [told(row) for row in smaller if row.share < SHARE * row.bound(A64FX)] == []


def test_fp16_sums_of_32_products_have_one_and_a_half_times_the_rate_of_fp32_ones(code):
    assert [gain.chunk for gain in code.gains] == [32]
    assert code.gains[0].gain >= 1.5


def test_16_bit_integers_have_one_and_three_quarters_times_the_rate_of_fp32_ones(code):
    assert code.integers.gain >= 1.75


def test_products_keep_their_sums_in_registers(code):
    assert [told(row) for row in code.rows if row.is_product and row.spills] == []


def test_no_forbidden_instruction_in_a_loop(code):
    assert [f"{f.name} x{f.count} in {f.family}: {f.kernel}, {f.line}, {f.why}" for f in code.faults] == []
