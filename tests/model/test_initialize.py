"""Initial weights: normal, the same on any layout, the same bits for ever."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.errors import UserError
from pyjpllm.model import Transformer, initialize
from pyjpllm.model.initialization import _cos_quarter, _log, normal_at, normal_piece
from pyjpllm.parallel import Layout, TensorParallel, layout_of
from tests.model.models import VARIANTS, config


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(VARIANTS)),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_any_layout_holds_slices_of_the_whole(variant, size, sequence, dtype):
    shape = config(variant)
    whole = Transformer(shape, dtype=dtype)
    initialize(whole, 7)
    reference = dict(whole.named_parameters())
    covered = {name: torch.zeros(param.shape) for name, param in reference.items()}
    for rank in range(size):
        try:
            part = Transformer(shape, tp=TensorParallel(None, rank, size, sequence and size > 1), dtype=dtype)
        except UserError:  # heads that cannot be dealt out over that many ranks
            return
        initialize(part, 7)
        for name, param in part.named_parameters():
            layout = layout_of(param)
            assert torch.equal(param, reference[name][layout.index]), name
            covered[name][layout.index] += 1 / layout.copies
    assert all(torch.allclose(count, torch.ones(())) for count in covered.values())


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_piece_is_the_slice(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    slices = []
    for size in shape:
        start = data.draw(st.integers(0, size))
        slices.append((start, data.draw(st.integers(start, size))))
    layout = Layout(shape, tuple(slices))
    whole = normal_piece(3, "w", Layout.whole(shape), 0.5, torch.float64)
    assert torch.equal(normal_piece(3, "w", layout, 0.5, torch.float64), whole[layout.index])


def test_chunks_do_not_change_a_bit(monkeypatch):
    layout = Layout((40, 50), ((3, 37), (5, 49)))
    expected = normal_piece(3, "w", layout, 1.0, torch.float64)
    for size in (1, 7, 64):
        monkeypatch.setattr("pyjpllm.model.initialization.CHUNK", size)
        assert torch.equal(normal_piece(3, "w", layout, 1.0, torch.float64), expected)


def test_the_numbers_are_these_for_ever():
    """A change of these breaks every run that is to be made again."""
    values = normal_at(1234, "embedding.weight", np.arange(4, dtype=np.uint64)).tolist()
    assert values == GOLDEN


GOLDEN = [-0.9077980555396369, -1.1554114304634526, -0.8235032022751781, -0.14632521616543803]


def test_they_are_standard_normal():
    n = 1 << 20
    z = normal_at(0, "x", np.arange(n, dtype=np.uint64))
    root = math.sqrt(n)
    assert abs(z.mean()) < 4 / root
    assert abs(z.var() - 1) < 4 * math.sqrt(2) / root
    assert abs((z**3).mean()) < 4 * math.sqrt(15) / root
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96) / root
    for lag in (1, 2, 64, 1000):
        assert abs((z[:-lag] * z[lag:]).mean()) < 4 / root
    edges = np.array([-3, -2, -1, -0.5, 0, 0.5, 1, 2, 3])
    shares = [(z < edge).mean() for edge in edges]
    exact = [0.5 * (1 + math.erf(edge / math.sqrt(2))) for edge in edges]
    assert max(abs(s - e) for s, e in zip(shares, exact, strict=True)) < 4 * 0.5 / root
    other = normal_at(0, "y", np.arange(n, dtype=np.uint64))
    assert abs((z * other).mean()) < 4 / root


def test_seed_and_name_both_count():
    at = np.arange(8, dtype=np.uint64)
    streams = [normal_at(seed, name, at).tolist() for seed in (0, 1) for name in ("a", "b")]
    assert len({tuple(stream) for stream in streams}) == 4


def test_large_indices_are_exact():
    """Index 2**40 of a tensor too large to hold is still its own number."""
    at = np.array([2**40, 2**40 + 1], dtype=np.uint64)
    pair = normal_at(0, "x", at)
    assert pair[0] != pair[1]
    layout = Layout((2**21, 2**20), ((2**20, 2**20 + 1), (0, 2)))
    assert torch.equal(normal_piece(0, "x", layout, 1.0, torch.float64), torch.from_numpy(pair)[None])


def test_own_functions_are_exact():
    x = np.concatenate([np.random.default_rng(0).random(100000), [2.0**-54, 1 - 2.0**-53, 0.5, math.sqrt(0.5)]])
    np.testing.assert_allclose(_log(x.copy()), np.log(x), rtol=4e-15, atol=4e-16)
    np.testing.assert_allclose(_cos_quarter(x), np.cos(np.pi / 2 * x), atol=5e-16)


@pytest.mark.parametrize("variant", ["attention bias", "qwen3"])
def test_spread_of_each_kind(variant):
    shape = config(variant, hidden_size=96, intermediate_size=128, num_layers=8, init_std=0.02)
    model = Transformer(shape)
    initialize(model, 0)
    for name, param in model.named_parameters():
        if name.endswith("bias"):
            assert not param.any(), name
        elif "norm" in name:
            assert (param == 1).all(), name
        else:
            expected = 0.02 / 4 if name.endswith(("attention.o.weight", "mlp.down.weight")) else 0.02
            assert param.std().item() == pytest.approx(expected, rel=0.1), name


def test_first_loss_is_near_the_uniform_guess():
    shape = config(hidden_size=48, init_std=0.02)
    model = Transformer(shape)
    initialize(model, 0)
    ids = torch.randint(37, (8, 16), generator=torch.Generator().manual_seed(0))
    result = model.loss(ids[:, :-1], ids[:, 1:])
    assert result.loss.item() / result.count.item() == pytest.approx(math.log(37), abs=0.05)


def test_meta_is_left_alone():
    model = Transformer(config(), device="meta")
    initialize(model, 0)
    assert all(param.is_meta for param in model.parameters())
