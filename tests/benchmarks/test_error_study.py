"""The error study: its figures lie where the arithmetic puts them, and docs/kernels.md holds its rows."""

from __future__ import annotations

from benchmarks import error_study
from benchmarks.error_study import ARITHMETICS, DISTRIBUTIONS, relative_error


def test_errors_are_ordered_as_the_roundings_are() -> None:
    gaussian = {a.name: relative_error(a, DISTRIBUTIONS["gaussian"], 512) for a in ARITHMETICS}
    assert gaussian["FP32"] < 1e-6
    # Roundings of both operands, each uniform within half a unit: of integers, whose largest is 2 to 4 here, 2^-13.
    assert gaussian["16-bit integers of FP32"] < 2**0.5 * 2.0**-13 / 12**0.5 * 1.5
    assert list(gaussian.values()) == sorted(gaussian.values())


def test_the_table_is_in_the_documents() -> None:
    text = error_study.DOCS.read_text(encoding="utf-8")
    begin, end = text.index(error_study.BEGIN), text.index(error_study.END)
    rows = text[begin:end].splitlines()[3:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {a.name}" for a in ARITHMETICS]
