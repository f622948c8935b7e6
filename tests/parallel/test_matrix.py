"""Every valid layout of up to eight ranks trains to the numbers of one process, to 1e-10 in FP64; the list is printed.

Ten steps on one and two ranks; fewer on more, where `python -m tests.parallel.matrix_table` takes all ten.
"""

from __future__ import annotations

import functools

import pytest

from tests.mpi import run_ranks
from tests.parallel import matrix
from tests.parallel import reference as one
from tests.parallel.reference import Reference
from tests.parallel.test_equality import TOLERANCE, Differences, largest

SIZES = (1, 2, 3, 4, 5, 6, 7, 8)
STEPS = {1: one.STEPS, 2: one.STEPS, 3: 3, 4: 3}


@functools.cache
def references() -> dict[str, Reference]:
    return {name: one.train_on_one_process(config) for name, config in matrix.MODELS.items()}


def prove(size: int, backend: str, cases: list[matrix.Case], steps: int) -> dict[matrix.Case, Differences]:
    """What each case differs by; AssertionError where that is too much."""
    by_rank = run_ranks(matrix.walk, size, cases, references(), steps, backend=backend, timeout=3000)
    found = {case: largest(values) for case, values in zip(cases, zip(*by_rank, strict=True), strict=True)}
    for case, differences in found.items():
        print(f"{size} ranks, {backend}: {case}: {differences}")
    wrong = {str(case): differences for case, differences in found.items() if not differences.worst < TOLERANCE}
    assert not wrong, wrong
    return found


@pytest.mark.parametrize("size", SIZES)
def test_every_layout(size: int) -> None:
    prove(size, "mpi4py", matrix.cases(size), STEPS.get(size, 2))


def test_layouts_on_gloo() -> None:
    """Every layout of four ranks once, the models in turn."""
    chosen = {case.layout: case for turn in range(3) for case in matrix.cases(4)[turn::3]}
    prove(4, "gloo", list(chosen.values()), 2)


def test_there_are_enough() -> None:
    every = [case for size in SIZES for case in matrix.cases(size)]
    assert len({(case.model, case.layout) for case in every}) >= 150
    piped = [case for case in every if case.pp > 1]
    assert {case.schedule for case in piped} == set(matrix.SCHEDULES)
    assert {case.zero for case in every} == {0, 1, 2, 3}
    assert len({case.layout for case in every if case.zero == 3}) >= 10
    assert {case.kind for case in every if case.cp > 1} == set(matrix.KINDS)
