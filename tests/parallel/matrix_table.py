"""Walks every layout for ten steps and prints the largest differences by number of ranks, as a table in Markdown.

``python -m tests.parallel.matrix_table [--backend gloo] [--ranks 1 2 4] [--write PAGE]``; the list of cases goes to
standard error as it is walked.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from pathlib import Path

from benchmarks.ranks import write_between
from tests.mpi import end_waiting_ranks
from tests.parallel import matrix
from tests.parallel import reference as one
from tests.parallel.test_equality import largest
from tests.parallel.test_matrix import SIZES, prove

PORTION = 12
"""So many cases a call, so that there is something to see."""


def row(size: int, backend: str) -> str:
    """All layouts of some ranks, and the largest differences over them."""
    cases = matrix.cases(size)
    found = []
    with contextlib.redirect_stdout(sys.stderr):
        for start in range(0, len(cases), PORTION):
            found += prove(size, backend, cases[start : start + PORTION], one.STEPS).values()
            sys.stderr.flush()
    worst = largest(found)
    layouts = Counter(case.layout for case in cases)
    named = ", ".join(f"{'·'.join(map(str, layout))}" for layout in layouts)
    zero3 = sum(case.zero == 3 for case in cases)
    figures = (worst.loss, worst.gradients, worst.norm, worst.weights)
    return f"| {size} | {named} | {len(cases)} | {zero3} | {' | '.join(f'{x:.1e}' for x in figures)} |"


def table(backend: str, sizes: list[int]) -> str:
    """Markdown."""
    lines = [
        f"Over {backend}, {one.STEPS} steps; a layout is pp·dp·cp·ep·tp.",
        "",
        "| ranks | layouts | cases | of them ZeRO-3 | loss | gradients | norm | weights after 10 steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [row(size, backend) for size in sizes])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.parallel.matrix_table", description=str(__doc__))
    parser.add_argument("--backend", choices=("mpi4py", "gloo"), default="mpi4py")
    parser.add_argument("--ranks", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    options = parser.parse_args()
    try:
        text = table(options.backend, options.ranks)
    finally:
        end_waiting_ranks()
    print(text)
    if options.write is not None:
        write_between(options.write, f"layouts over {options.backend}", text)


if __name__ == "__main__":
    main()
