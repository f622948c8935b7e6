"""The curve of MinHash-LSH, the search for bands and rows, and that planted pairs are found as the curve says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpus_recall import Pairs
from pyjpllm.corpus.dedup import MinHasher, collision_probability, solve_banding
from pyjpllm.errors import UserError


@given(st.floats(0, 1), st.integers(1, 60), st.integers(1, 25))
def test_the_curve_is_the_closed_form(similarity: float, bands: int, rows: int) -> None:
    assert collision_probability(similarity, bands, rows) == pytest.approx(
        1 - (1 - similarity**rows) ** bands, abs=1e-12
    )


@pytest.mark.parametrize(
    ("bands", "rows", "at_8", "at_9"),  # the table of the published settings: Swallow, FineWeb2, llm-jp v4, Curator
    [(40, 20, 0.37, 0.994), (14, 8, 0.92, 1.0), (20, 10, 0.90, 1.0), (20, 13, 0.68, 0.997)],
)
def test_published_settings(bands: int, rows: int, at_8: float, at_9: float) -> None:
    assert collision_probability(0.8, bands, rows) == pytest.approx(at_8, abs=0.006)
    assert collision_probability(0.9, bands, rows) == pytest.approx(at_9, abs=0.006)


@pytest.mark.parametrize(
    ("found", "spared"),
    [((0.8, 0.9), (0.5, 0.05)), ((0.9, 0.99), (0.7, 0.1)), ((0.6, 0.95), (0.2, 0.01)), ((0.5, 0.5), (0.4, 0.4))],
)
def test_the_solved_banding_is_the_least(found: tuple[float, float], spared: tuple[float, float]) -> None:
    def fits(bands: int, rows: int) -> bool:
        return 1 - (1 - found[0] ** rows) ** bands >= found[1] and 1 - (1 - spared[0] ** rows) ** bands <= spared[1]

    bands, rows = solve_banding(found, spared)
    assert fits(bands, rows)
    functions = bands * rows
    assert not any(fits(b, r) for b in range(1, functions) for r in range(1, (functions - 1) // b + 1))


def test_what_cannot_be_had() -> None:
    with pytest.raises(UserError, match="move the two points apart"):
        solve_banding((0.8, 0.99), (0.79, 0.01))
    with pytest.raises(UserError, match="must be below"):
        solve_banding((0.5, 0.9), (0.6, 0.1))
    with pytest.raises(UserError, match="between 0 and 1"):
        solve_banding((0.8, 1.0), (0.5, 0.1))
    with pytest.raises(ValueError, match="similarity"):
        collision_probability(1.5, 1, 1)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Pairs of every similarity alike often."""
    return Pairs(3000, 150)


@pytest.mark.parametrize(("bands", "rows"), [(14, 8), (40, 20), (20, 5)])
def test_planted_pairs_are_found_as_the_formula_says(bands: int, rows: int, pairs: Pairs) -> None:
    """Within 0.02 or four standard deviations of so many pairs; benchmarks/corpus_recall.py has enough for 0.02."""
    hasher = MinHasher(5, bands, rows)
    first, second = (hasher.keys(hasher.signatures(side)) for side in (pairs.texts, pairs.copies))
    found = (first == second).any(axis=1)
    expected = np.array([collision_probability(s, bands, rows) for s in pairs.similarity])
    assert abs(found.mean() - expected.mean()) < 0.02
    for low in (0.2, 0.4, 0.6, 0.8):
        part = (pairs.similarity >= low) & (pairs.similarity < low + 0.2)
        assert part.sum() > 400
        sigma = np.sqrt((expected[part] * (1 - expected[part])).sum()) / part.sum()
        assert abs(found[part].mean() - expected[part].mean()) < max(0.02, 4 * sigma)
    strangers = np.roll(second, 1, axis=0)
    assert not (first == strangers).any()
