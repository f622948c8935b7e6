"""The fewest edits, against the whole table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.corpus.edit_distance import least_edits


def table(pattern: str, text: str) -> int:
    """Sellers' table, cell by cell: a stretch may begin and end anywhere in the text."""
    row = [0] * (len(text) + 1)
    for i, wanted in enumerate(pattern, 1):
        above, row = row, [i]
        for j, character in enumerate(text, 1):
            row.append(min(above[j - 1] + (wanted != character), above[j] + 1, row[j - 1] + 1))
    return min(row)


@given(st.text("あいう", max_size=12), st.text("あいう", max_size=20))
def test_against_the_table(pattern: str, text: str) -> None:
    assert least_edits(pattern, text) == table(pattern, text)


@given(st.text(max_size=5), st.text(min_size=1, max_size=80), st.text(max_size=5))
def test_what_stands_there_needs_no_edit(before: str, pattern: str, behind: str) -> None:
    assert least_edits(pattern, before + pattern + behind) == 0
    assert least_edits(pattern, "") == len(pattern)
