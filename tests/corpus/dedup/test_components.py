"""Connected components against a search over the graph."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.corpus.dedup.components import components
from pyjpllm.corpus.exchange import Alone, Exchange

Pair = tuple[int, int]


def searched(pairs: list[Pair]) -> list[Pair]:
    """(number, least of its component), by a search from every number in ascending order."""
    neighbours: dict[int, set[int]] = {}
    for a, b in pairs:
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    root: dict[int, int] = {}
    for start in sorted(neighbours):
        stack = [] if start in root else [start]
        while stack:
            number = stack.pop()
            if number not in root:
                root[number] = start
                stack += neighbours[number]
    return sorted((number, least) for number, least in root.items() if number != least)


def array(pairs: list[Pair]) -> np.ndarray[Any, Any]:
    return np.array(pairs, np.uint64).reshape(-1, 2)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_against_a_search(pairs: list[Pair]) -> None:
    assert [tuple(pair) for pair in components(array(pairs), Alone()).tolist()] == searched(pairs)


def graphs() -> list[list[Pair]]:
    """A long chain with shuffled names, two stars that share a leaf, nothing, a random graph, and graphs of so few
    pairs that some ranks own none at one point or another."""
    random = np.random.default_rng(3)
    names = random.permutation(3000).tolist()
    chain = list(itertools.pairwise(names))
    stars = [(5000 + i, 9000) for i in range(50)] + [(6000 + i, 9001) for i in range(50)] + [(5000, 6000)]
    loose = [(int(a), int(b)) for a, b in random.integers(0, 2000, (1000, 2))]
    few = [[(4, 2)], [(5, 3)], [(4, 2), (8, 6)], [(4, 2), (2, 1)], [(9, 4), (9, 8), (3, 8)]]
    return [chain, stars, [], loose, *few]


def on_ranks(exchange: Exchange) -> list[list[Pair]]:
    """This rank's part of the components of ``graphs``, whose pairs are dealt out; test_ranks.py calls it."""
    results = []
    for pairs in graphs():
        mine = components(array(pairs[exchange.rank :: exchange.size]), exchange)
        assert all(number % exchange.size == exchange.rank for number in mine[:, 0].tolist())
        results.append([(int(a), int(b)) for a, b in mine])
    return results
