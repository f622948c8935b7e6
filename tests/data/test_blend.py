"""The blend against its definition: sort everything by due time."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.data.blend import Blend

WEIGHTS = st.lists(
    st.one_of(st.integers(1, 9), st.sampled_from([0.1, 0.25, 1 / 3, 2.5, 70.0, 0.7]), st.fractions("1/9", 9)),
    min_size=1,
    max_size=6,
)


def by_definition(blend: Blend, count: int) -> list[tuple[int, int]]:
    """The first ``count`` samples as (corpus, k), from the rule as it is written."""
    total = sum(blend.weights)
    due = sorted(
        (Fraction(2 * k + 1, 2 * weight), corpus, k)
        for corpus, weight in enumerate(blend.weights)
        for k in range(count * weight // total + len(blend.weights) + 2)
    )
    return [(corpus, k) for _, corpus, k in due][:count]


def taken(blend: Blend, start: int, count: int) -> list[tuple[int, int]]:
    corpora, local = blend.take(start, count)
    return list(zip(corpora.tolist(), local.tolist(), strict=True))


@settings(max_examples=150, deadline=None)
@given(weights=WEIGHTS, cut=st.integers(0, 200))
def test_the_blend_is_the_rule(weights: list[float], cut: int) -> None:
    blend = Blend(weights)
    expected = by_definition(blend, 200)
    assert taken(blend, 0, 200) == expected
    assert taken(blend, 0, cut) + taken(blend, cut, 200 - cut) == expected
    for n, (corpus, k) in enumerate(expected):
        assert blend.rank(corpus, k) == n


@settings(max_examples=150, deadline=None)
@given(weights=WEIGHTS, n=st.one_of(st.integers(0, 300), st.integers(10**9, 10**14)))
def test_counts_are_the_shares(weights: list[float], n: int) -> None:
    blend = Blend(weights)
    counts = blend.counts(n)
    total = sum(blend.weights)
    assert sum(counts) == n
    for count, weight in zip(counts, blend.weights, strict=True):
        share = Fraction(weight, total)
        assert abs(count - n * share) <= Fraction(1, 2) + Fraction(len(weights), 2) * share
    assert blend.counts(total) == list(blend.weights)


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, start=st.integers(0, 10**13))
def test_each_corpus_is_taken_in_order(weights: list[float], start: int) -> None:
    blend = Blend(weights)
    following = blend.counts(start)
    for corpus, k in taken(blend, start, 64):
        assert k == following[corpus]
        following[corpus] += 1
    assert following == blend.counts(start + 64)


def test_a_known_order() -> None:
    # Due times: 1/6 1/2 5/6 ... for weight 3, 1/2 3/2 ... for weight 1.
    assert taken(Blend([3, 1]), 0, 8) == [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (0, 4), (1, 1), (0, 5)]
    assert Blend([0.3, 0.1]).weights == (3, 1)
    assert taken(Blend([5]), 7, 2) == [(0, 7), (0, 8)]
    assert taken(Blend([1, 1, 1]), 0, 4) == [(0, 0), (1, 0), (2, 0), (0, 1)]


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [-1.0]])
def test_what_is_no_blend(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"blend|weights"):
        Blend(weights)
