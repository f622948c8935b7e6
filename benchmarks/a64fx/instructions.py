"""Executed instructions of stock torch for aarch64 and of the native kernels, counted under the emulator.

    python -m benchmarks.a64fx.instructions [--json] [--write docs/a64fx.md]

A QEMU plugin (instructions.c) counts every instruction of one thread, whatever the processor would take for it. The
counted program calls each operation once and then twice more, with marks between; the difference of the two is one
call, so that what happens only once (loading, first use) and the marks themselves drop out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
MARK = 0x4A504C4D
BEGIN, END = "<!-- instructions: begin -->", "<!-- instructions: end -->"


@dataclass(frozen=True)
class Count:
    """Instructions of one call."""

    all: int
    sve: int
    neon: int
    """NEON and scalar floating point."""


@dataclass(frozen=True)
class Line:
    """One operation, forward and backward unless its name says otherwise."""

    name: str
    shape: str
    product: bool
    torch: Count
    native: Count

    @property
    def ratio(self) -> float:
        """How many times fewer instructions ours are."""
        return self.torch.all / self.native.all


def stop(message: str) -> None:
    sys.exit(f"benchmarks.a64fx.instructions: {message}")


def build_plugin(folder: Path) -> Path:
    """instructions.c as a shared object."""
    if shutil.which("qemu-aarch64") is None:
        stop("qemu-aarch64 is missing: apt-get install qemu-user")
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        stop("no C compiler is there: apt-get install gcc")
    plugin = folder / "instructions.so"
    source = Path(__file__).with_name("instructions.c")
    subprocess.run(
        [str(compiler), "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", f"-DMARK={MARK}u", "-o", plugin, source],
        check=True,
    )
    return plugin


def emulate(plugin: Path, *command: str) -> tuple[str, list[Count]]:
    """What ``command`` says in the emulated tree, and the counts at each of its marks."""
    counts = plugin.with_name("counts")
    environment = {
        **os.environ,
        "JPLLM_QEMU": f"qemu-aarch64 -plugin {plugin},out={counts}",
        "COUNT_MARK": str(MARK),
        "OMP_NUM_THREADS": "1",
    }
    script = REPO / "scripts" / "a64fx" / "run"
    result = subprocess.run([script, *command], cwd=REPO, env=environment, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        stop(f"`scripts/a64fx/run {' '.join(command)}` failed; what it said is above")
    return result.stdout, [Count(*map(int, line.split())) for line in counts.read_text().splitlines()]


def one_call(marks: list[Count]) -> Count:
    """From the marks before one call, after it and after two more."""
    start, one, three = (asdict(mark) for mark in marks)
    return Count(**{kind: three[kind] - 2 * one[kind] + start[kind] for kind in start})


def measure(folder: Path) -> list[Line]:
    """Every operation: torch, and ours with vectors of 512 bits."""
    said, marks = emulate(build_plugin(folder), "python", "-m", "benchmarks.a64fx.counted")
    return lines_of(json.loads(said.splitlines()[-1]), marks)


def lines_of(counted: list[dict[str, Any]], marks: list[Count]) -> list[Line]:
    """The lines of what counted.py says that it counted, with three marks for each side of an operation."""
    if len(marks) != 6 * len(counted):
        stop(f"{len(marks)} marks for {2 * len(counted)} calls: the plugin has missed some")
    calls = [one_call(marks[i : i + 3]) for i in range(0, len(marks), 3)]
    return [
        Line(**row, torch=torch, native=native)
        for row, torch, native in zip(counted, calls[::2], calls[1::2], strict=True)
    ]


def mean_ratio(lines: list[Line]) -> float:
    """The geometric mean of all that was counted but plain products."""
    ratios = [line.ratio for line in lines if not line.product]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def table(lines: list[Line]) -> str:
    """Markdown."""
    rows = [
        "| operation | size | torch 2.9.1, millions | of these NEON / SVE | native, millions | of these NEON / SVE "
        "| torch / native |",
        "|---|---|---|---|---|---|---|",
    ]

    def share(count: Count) -> str:
        return f"{count.neon / count.all:.0%} / {count.sve / count.all:.0%}"

    for line in lines:
        cells = [line.name, line.shape, f"{line.torch.all / 1e6:.2f}", share(line.torch)]
        cells += [f"{line.native.all / 1e6:.2f}", share(line.native), f"{line.ratio:.2f}"]
        rows.append(f"| {' | '.join(cells)} |")
    rows += [
        "",
        f"Geometric mean of torch / native over everything but the plain products (linear): {mean_ratio(lines):.2f}.",
    ]
    return "\n".join(rows)


def write(page: Path, text: str) -> None:
    """Put the table between the page's two marks."""
    whole = page.read_text(encoding="utf-8")
    before, _, rest = whole.partition(BEGIN)
    if not rest or END not in rest:
        stop(f"{page}: the marks {BEGIN} and {END} are missing")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.a64fx.instructions", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="numbers for a program")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(Path(folder))
    if arguments.json:
        rows = [asdict(line) | {"ratio": line.ratio} for line in lines]
        print(json.dumps({"operations": rows, "geometric_mean": mean_ratio(lines)}, indent=1))
    else:
        print(table(lines))
    if arguments.write:
        write(arguments.write, table(lines))


if __name__ == "__main__":
    main()
