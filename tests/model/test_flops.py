"""Sizes and costs against a model that is counted."""

from __future__ import annotations

import pytest

from pyjpllm.config.presets import PRESETS
from pyjpllm.config.schema import ModelConfig
from pyjpllm.model import Transformer, count_parameters, flops_per_token
from pyjpllm.model.presets_table import presets_table
from tests.model.models import VARIANTS, config
from tests.mpi import ROOT


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_those_of_the_model(variant):
    shape = config(variant)
    assert count_parameters(shape) == sum(p.numel() for p in Transformer(shape, device="meta").parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_presets(name):
    shape = ModelConfig(**{**PRESETS[name], "vocab_size": 1001})
    assert count_parameters(shape) == sum(p.numel() for p in Transformer(shape, device="meta").parameters())


@pytest.mark.parametrize("variant", ["llama", "tied", "mistral"])
@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_flops_are_counted_one_by_one(variant, length):
    shape = config(variant)
    window = shape.sliding_window or length
    pairs = sum(min(s + 1, window) for s in range(length))
    attention = 3 * pairs * 2 * 2 * shape.num_heads * shape.head_dim * shape.num_layers
    embedding = 0 if shape.tie_embeddings else shape.vocab_size * shape.hidden_size
    weights = sum(p.numel() for p in Transformer(shape, device="meta").parameters()) - embedding
    assert flops_per_token(shape, length) * length == pytest.approx(6 * weights * length + attention, rel=1e-12)


def test_the_documented_table_is_the_table():
    assert presets_table() in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
