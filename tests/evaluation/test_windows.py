"""Each token is scored once with enough before it; packing cuts and loses nothing."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.evaluation.windows import IGNORE, Window, batches_of, pack, windows_of


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_every_token_is_scored_once(count: int, sequence_length: int, stride: int, ends: bool) -> None:
    stride = min(stride, sequence_length)
    ids = list(range(1, count + 1))
    end_id = 999 if ends else None
    windows = list(windows_of(ids, start_id=0, end_id=end_id, sequence_length=sequence_length, stride=stride))
    scored = [int(t) for w in windows for t in w.targets if t != IGNORE]
    assert scored == ids + ([999] if ends else [])
    for number, window in enumerate(windows):
        assert 1 <= len(window) <= sequence_length
        assert len(window.targets) == len(window)
        inside = window.targets != IGNORE
        assert inside[-1]
        if number:  # what comes before the first scored token in a later window
            assert int(np.argmax(inside)) >= sequence_length - stride
        # A target is the input that follows.
        later = window.targets[:-1]
        np.testing.assert_array_equal(later[inside[:-1]], window.inputs[1:][inside[:-1]])


def window(length: int) -> Window:
    return Window(np.arange(length), np.arange(length))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 16), max_size=80))
def test_packing_keeps_every_window_whole(lengths: list[int]) -> None:
    windows = [window(length) for length in lengths]
    rows = pack(windows, 16)
    assert sorted(id(w) for row in rows for w in row) == sorted(map(id, windows))
    assert all(1 <= sum(map(len, row)) <= 16 for row in rows)
    # At most one row is half empty: two such rows would have been one.
    assert sum(sum(map(len, row)) <= 8 for row in rows) <= 1


def test_packing_is_tight() -> None:
    rows = pack([window(length) for length in (3, 5, 7, 9, 11, 13)], 16)
    assert len(rows) == 3
    assert all(sum(map(len, row)) == 16 for row in rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 5))
def test_batches_hold_the_rows(lengths: list[int], rows_per_batch: int) -> None:
    rows = pack([window(length) for length in lengths], 12)
    batches = list(batches_of(rows, rows_per_batch, torch.device("cpu")))
    assert sum(len(batch.tokens_BS) for batch in batches) == len(rows)
    assert sum(int((batch.targets_BS != IGNORE).sum()) for batch in batches) == sum(lengths)
    for batch in batches:
        assert 1 <= len(batch.tokens_BS) <= rows_per_batch
        if batch.document_ids_BS is None:
            places = torch.arange(batch.tokens_BS.shape[1]).expand_as(batch.tokens_BS)
            seen = batch.targets_BS != IGNORE
            assert torch.equal(batch.positions_BS[seen], places[seen])
        else:
            assert (batch.positions_BS[:, 0] == 0).all()
            same = batch.document_ids_BS[:, 1:] == batch.document_ids_BS[:, :-1]
            expected = torch.where(same, batch.positions_BS[:, :-1] + 1, 0)
            assert torch.equal(batch.positions_BS[:, 1:], expected)
            # Filling has a document of its own, so that nothing attends to it.
            counted = batch.targets_BS != IGNORE
            for ids, row in zip(batch.document_ids_BS, counted, strict=True):
                assert not set(ids[row].tolist()) & set(ids[~row].tolist())
