"""Ranges, layouts and the dealing out of heads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.config.check import heads_fit
from pyjpllm.errors import UserError
from pyjpllm.parallel import Layout, TensorParallel, head_ranges, layout_of, set_layout, split_range, split_sizes


@given(st.integers(0, 1000), st.integers(1, 70))
def test_ranges_cover_everything_once_and_evenly(n: int, parts: int) -> None:
    ranges = [split_range(n, parts, index) for index in range(parts)]
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(n))
    sizes = [stop - start for start, stop in ranges]
    assert sizes == split_sizes(n, parts) == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("n", "parts", "index"), [(-1, 2, 0), (4, 2, 2), (4, 2, -1), (4, 0, 0)])
def test_a_range_that_does_not_exist(n: int, parts: int, index: int) -> None:
    with pytest.raises(ValueError):
        split_range(n, parts, index)


def heads_of(heads: int, kv_heads: int, size: int) -> list[tuple[range, range, int]]:
    ranks = [head_ranges(heads, kv_heads, TensorParallel(rank=rank, size=size)) for rank in range(size)]
    return [(range(*r.q), range(*r.kv), r.kv_copies) for r in ranks]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 24))
def test_heads_are_dealt_out_once_or_refused(kv_heads: int, per_kv: int, size: int) -> None:
    heads = kv_heads * per_kv
    try:
        ranks = heads_of(heads, kv_heads, size)
    except UserError:
        assert not heads_fit(heads, kv_heads, size)
        assert size > kv_heads
        assert size % kv_heads or per_kv % (size // kv_heads)
        return
    assert heads_fit(heads, kv_heads, size)  # the config's check before the start has the same rule
    assert [head for q, _, _ in ranks for head in q] == list(range(heads))
    for head in range(kv_heads):
        holders = [rank for rank, (_, kv, _) in enumerate(ranks) if head in kv]
        assert all(ranks[rank][2] == len(holders) for rank in holders)
        # Replicas are neighbours, so that one replica group is one run of ranks.
        assert holders == list(range(holders[0], holders[0] + len(holders)))
    for q, kv, _ in ranks:
        assert q
        assert sorted({head // per_kv for head in q}) == list(kv)
        assert len(q) % len(kv) == 0


def test_heads_by_hand() -> None:
    assert heads_of(6, 3, 2) == [(range(4), range(2), 1), (range(4, 6), range(2, 3), 1)]
    assert heads_of(8, 2, 4) == [
        (range(2), range(1), 2),
        (range(2, 4), range(1), 2),
        (range(4, 6), range(1, 2), 2),
        (range(6, 8), range(1, 2), 2),
    ]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "nearest"), [(6, 3, 4, 3), (8, 2, 6, 4), (4, 2, 16, 4), (6, 2, 4, 2), (32, 8, 24, 16)]
)
def test_heads_that_cannot_be_dealt_out(heads: int, kv_heads: int, size: int, nearest: int) -> None:
    with pytest.raises(UserError, match=rf"parallel.tensor = {size} .*model.num_heads = {heads}.* is {nearest}$"):
        head_ranges(heads, kv_heads, TensorParallel(size=size))


def test_query_heads_that_do_not_share_kv_heads_evenly() -> None:
    with pytest.raises(UserError, match=r"model.num_heads = 6 is no multiple of model.num_kv_heads = 4"):
        head_ranges(6, 4, TensorParallel())


def test_a_layout_cuts_its_piece() -> None:
    whole = torch.arange(20).view(4, 5)
    layout = Layout.split(whole.shape, 1, (2, 4))
    assert layout.local_shape == (4, 2)
    assert torch.equal(whole[layout.index], whole[:, 2:4])


def test_a_layout_is_kept_by_its_parameter() -> None:
    param = torch.nn.Parameter(torch.zeros(3, 5))
    assert layout_of(param) == Layout((3, 5), ((0, 3), (0, 5)), 1, None)
    layout = Layout.split((6, 5), 0, (3, 6), copies=2)
    set_layout(param, layout)
    assert layout_of(param) is layout
    with pytest.raises(ValueError, match="no piece"):
        set_layout(param, Layout.whole((6, 5)))


@pytest.mark.parametrize(
    ("shape", "slices", "copies"),
    [((4,), ((0, 5),), 1), ((4,), ((3, 2),), 1), ((4,), (), 1), ((4,), ((-1, 2),), 1), ((4,), ((0, 4),), 0)],
)
def test_layouts_that_make_no_sense(shape: tuple[int, ...], slices: tuple[tuple[int, int], ...], copies: int) -> None:
    with pytest.raises(ValueError):
        Layout(shape, slices, copies)
