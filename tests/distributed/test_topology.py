"""Ranks on a torus: each once, pipeline neighbours one hop apart, tensor-parallel groups within nodes."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.distributed.topology import Torus, _trip, rank_map, snake
from pyjpllm.errors import UserError

FUGAKU = Torus((48, 6, 48), (True, True, True))


@pytest.mark.parametrize("pipeline", [1, 2, 3, 6, 8, 12, 16, 18, 24, 27, 48, 64, 96])
def test_pipelines_on_a_part_of_fugaku(pipeline: int) -> None:
    ranks = rank_map(FUGAKU, pipeline=pipeline, ranks_per_node=4)
    assert len(ranks) == 4 * 48 * 6 * 48 == len(set(ranks))
    stage = len(ranks) // pipeline
    for rank in range(len(ranks) - stage):
        here, following = ranks[rank], ranks[rank + stage]
        assert FUGAKU.hops(here.node, following.node) == 1
        assert here.slot == following.slot
    for rank in range(0, len(ranks), 4):  # four tensor-parallel ranks, or two times two
        assert len({place.node for place in ranks[rank : rank + 4]}) == 1
    if pipeline % 2 == 0:
        assert all(FUGAKU.hops(ranks[rank].node, ranks[len(ranks) - stage + rank].node) == 1 for rank in range(stage))


@settings(deadline=None)
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), data=st.data())
def test_any_torus(shape: list[int], data: st.DataObject) -> None:
    wraps = tuple(data.draw(st.booleans()) for _ in shape)
    torus = Torus(tuple(shape), wraps)
    fitting = [n for n in range(1, torus.nodes + 1) if torus.nodes % n == 0]
    pipeline = data.draw(st.sampled_from(fitting))
    ranks = rank_map(torus, pipeline=pipeline, ranks_per_node=2)
    assert {place.node for place in ranks} == set(itertools.product(*map(range, shape)))
    assert len(set(ranks)) == len(ranks) == 2 * torus.nodes
    stage = len(ranks) // pipeline
    assert all(torus.hops(ranks[r].node, ranks[r + stage].node) == 1 for r in range(len(ranks) - stage))


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_snake_and_a_round_trip_go_through_every_node(shape: list[int]) -> None:
    box = Torus(tuple(shape), (False,) * len(shape))
    trip = _trip(box.shape)
    for way in (snake(shape), trip):
        if way is not None:
            assert len(set(way)) == len(way) == math.prod(shape)
            assert all(box.hops(a, b) == 1 for a, b in itertools.pairwise(way))
    if trip is not None:
        assert box.hops(trip[-1], trip[0]) == 1
    elif box.nodes > 2 and box.nodes % 2 == 0:
        assert sum(side > 1 for side in shape) == 1  # a line: nothing goes round


def test_nodes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"parallel.pipeline = 7 does not divide the 13824 nodes of 48 x 6 x 48; .* is 6"
    ):
        rank_map(FUGAKU, pipeline=7, ranks_per_node=4)
