"""Permutations: they are some, they differ by key, and they never change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.data.shuffle import key_of, order_of, scatter

KEY = 742759596975321876
ORDER = [0, 5, 4, 1, 2, 6, 7, 3]
SCATTER = [6, 3, 5, 4, 0, 2, 1, 7]


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 2000), key=st.integers(0, 2**64 - 1))
def test_scatter_is_a_permutation(size: int, key: int) -> None:
    whole = scatter(np.arange(size), size, key)
    assert sorted(whole.tolist()) == list(range(size))
    some = np.arange(0, size, 3)
    assert scatter(some, size, key).tolist() == whole[some].tolist()
    assert sorted(order_of(size, key).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2**31 + 11, 2**40, 3**25])
def test_scatter_of_large_ranges(size: int) -> None:
    indices = np.concatenate([np.arange(2000), size - 1 - np.arange(2000)])
    out = scatter(indices, size, 5)
    assert out.min() >= 0
    assert out.max() < size
    assert len(np.unique(out)) == len(indices)


def test_they_do_not_change() -> None:
    """A run that is resumed with another version must go on with the same samples."""
    assert key_of(1234, 0) == KEY
    assert order_of(8, 1).tolist() == ORDER
    assert scatter(np.arange(8), 8, 1).tolist() == SCATTER


def test_keys_depend_on_every_part_and_on_their_order() -> None:
    keys = {key_of(), key_of(0), key_of(0, 0), key_of(1, 0), key_of(0, 1), key_of(2**64 - 1)}
    assert len(keys) == 6


def test_they_mix() -> None:
    out = scatter(np.arange(10000), 10000, 3)
    # Neighbours land anywhere: the mean distance of two random places is a third of the range.
    assert 3000 < np.abs(np.diff(out)).mean() < 3700
    assert abs(float(np.corrcoef(out, np.arange(10000))[0, 1])) < 0.05
    order = order_of(10000, 3)
    assert abs(float(np.corrcoef(order, np.arange(10000))[0, 1])) < 0.05
