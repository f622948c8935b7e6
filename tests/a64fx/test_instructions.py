"""The counting of instructions: exact on a program whose instructions are known, the table, the page."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.a64fx import instructions
from benchmarks.a64fx.instructions import Count, Line

# A round is six instructions in the loop: two of SVE, one of NEON, one on a NEON register by a load, two others.
PROGRAM = """
#include <unistd.h>
static void rounds(long n) {
    static float numbers[64];
    __asm__ volatile("1: fadd z0.s, z0.s, z1.s\\n ptrue p0.s\\n fadd v2.4s, v2.4s, v3.4s\\n ldr q4, [%1]\\n"
                     "subs %0, %0, #1\\n b.ne 1b" : "+r"(n) : "r"(numbers)
                     : "v0", "v1", "v2", "v3", "v4", "p0", "memory", "cc");
}
int main() {
    close(MARK);
    rounds(1000);
    close(MARK);
    rounds(1000);
    rounds(1000);
    close(MARK);
    return 0;
}
"""


@pytest.mark.a64fx
def test_the_plugin_counts_exactly(tmp_path: Path) -> None:
    plugin = instructions.build_plugin(tmp_path)
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(PROGRAM)
    compiler = ["aarch64-linux-gnu-g++", "-x", "c", "-O1", "-fno-inline", "-static", "-march=armv8.2-a+sve"]
    subprocess.run([*compiler, f"-DMARK={instructions.MARK}", "-o", program, source], check=True)
    counts = tmp_path / "counts"
    command = ["qemu-aarch64", "-cpu", "a64fx", "-plugin", f"{plugin},out={counts}", program]
    subprocess.run(command, check=True, timeout=60)
    marks = [Count(*map(int, line.split())) for line in counts.read_text().splitlines()]
    one = instructions.one_call(marks)
    assert (one.sve, one.neon) == (2000, 2000)
    assert 6000 <= one.all < 6020
    refused = subprocess.run([*command[:4], str(plugin), program], capture_output=True, text=True)
    assert refused.returncode != 0
    assert "the plugin needs out=FILE" in refused.stderr


LINES = [
    Line("linear", "8 x 8", True, Count(8_000_000, 0, 4_000_000), Count(4_000_000, 3_000_000, 0)),
    Line("swiglu", "8", False, Count(9_000_000, 0, 1), Count(1_000_000, 1, 0)),
    Line("norm", "8", False, Count(4_000_000, 0, 1), Count(1_000_000, 1, 0)),
]


def test_the_mean_leaves_products_out() -> None:
    assert instructions.mean_ratio(LINES) == pytest.approx(6.0)
    text = instructions.table(LINES)
    assert "| linear | 8 x 8 | 8.00 | 50% / 0% | 4.00 | 0% / 75% | 2.00 |" in text
    assert text.endswith("(linear): 6.00.")


def test_marks_go_to_their_operations() -> None:
    counted = [{"name": name, "shape": "8", "product": False} for name in ("first", "second")]
    marks = [Count(at, 0, 0) for call in (50, 10, 90, 30) for at in (1000, 1007 + call, 1007 + 3 * call)]
    lines = instructions.lines_of(counted, marks)
    found = [(line.name, line.torch.all, line.native.all) for line in lines]
    assert found == [("first", 43, 3), ("second", 83, 23)]
    with pytest.raises(SystemExit, match="11 marks for 4 calls"):
        instructions.lines_of(counted, marks[1:])


def test_the_table_goes_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{instructions.BEGIN}\nold\n{instructions.END}\nafter\n")
    instructions.write(page, "new")
    assert page.read_text() == f"before\n{instructions.BEGIN}\nnew\n{instructions.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="the marks <!-- instructions"):
        instructions.write(page, "new")
