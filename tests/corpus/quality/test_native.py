"""The native classifier and language model against slow references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm import _text
from tests.corpus.quality import reference

ODD = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("あいアﾞか\0 \n😀"), max_size=40)
FEW = st.text("abかき😀", max_size=30)


@given(st.lists(ODD, max_size=4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_scores_are_those_of_the_reference(texts: list[str], most: int, outputs: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.normal(size=(256, outputs)).astype(np.float32)
    bias = random.normal(size=outputs)
    found = _text.linear_scores(texts, weights, bias, most)
    assert found.tolist() == [reference.scores(text, weights, bias, most) for text in texts]


@settings(max_examples=40)
@given(st.lists(st.tuples(FEW, st.integers(0, 2)), min_size=1, max_size=6), st.sampled_from([1, 3]))
def test_training_is_that_of_the_reference(examples: list[tuple[str, int]], outputs: int) -> None:
    texts = [text for text, _ in examples]
    labels = [min(label, 1) if outputs == 1 else label for _, label in examples]
    weights, squares = (np.zeros((64, outputs), np.float32) for _ in range(2))
    bias, bias_squares = np.zeros(outputs), np.zeros(outputs)
    loss = _text.linear_train(texts, np.array(labels, np.int32), weights, squares, bias, bias_squares, 3, 0.3)
    expected_weights, expected_bias, expected_loss = reference.train(texts, labels, outputs, 6, 3, 0.3)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(bias, expected_bias, rtol=1e-12)
    assert loss == pytest.approx(expected_loss, rel=1e-12)


@given(st.lists(FEW, max_size=5), st.lists(FEW | ODD, max_size=4), st.integers(1, 6), st.integers(1, 3))
def test_probabilities_are_those_of_the_formula(
    texts: list[str], others: list[str], order: int, min_count: int
) -> None:
    slots, kept, backoff = _table(texts, order, min_count)
    model = reference.WittenBell(texts, order, min_count)
    assert kept == len(model.kept)
    found = _text.log2_probabilities([*others, *texts], slots, order, backoff)
    assert found.tolist() == pytest.approx([model.log2(text) for text in [*others, *texts]], rel=1e-5)


@given(st.lists(FEW, min_size=1, max_size=5), st.text("abか", max_size=5), st.integers(1, 5), st.integers(1, 4))
def test_probabilities_sum_to_one(texts: list[str], context: str, order: int, min_count: int) -> None:
    slots, _, backoff = _table(texts, order, min_count)
    seen = sorted({*"".join(texts), "ん"})  # and one that was not seen, for all that were not
    before, *behind = _text.log2_probabilities(
        [context, *(context + character for character in seen)], slots, order, backoff
    ).tolist()
    p = [2.0 ** (value - before) for value in behind]
    unseen = 1112064 - (len(seen) - 1)
    assert sum(p) - p[seen.index("ん")] + unseen * p[seen.index("ん")] == pytest.approx(1, rel=1e-5)


def test_a_long_text_loses_nothing() -> None:
    text = "".join(chr(0x3041 + i * i % 83) for i in range(5000)) + "".join(map(chr, range(0x4E00, 0x5600)))
    slots, _, backoff = _table([text[:3000]], 5, 2)
    expected = reference.WittenBell([text[:3000]], 5, 2).log2(text)
    assert _text.log2_probabilities([text], slots, 5, backoff)[0] == pytest.approx(expected, rel=1e-6)


def test_a_table_that_is_full_ends_the_search() -> None:
    slots = np.full((4, 2), 7, np.uint64)
    assert np.isfinite(_text.log2_probabilities(["あ"], slots, 2, 0.5)).all()


def test_wrong_arguments() -> None:
    weights, bias = np.zeros((8, 1), np.float32), np.zeros(1)
    labels = np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="power of two"):
        _text.linear_scores(["a"], np.zeros((6, 1), np.float32), bias, 2)
    with pytest.raises(ValueError, match="shape"):
        _text.linear_scores(["a"], weights, np.zeros(2), 2)
    with pytest.raises(ValueError, match="most"):
        _text.linear_scores(["a"], weights, bias, 0)
    with pytest.raises(TypeError, match="str"):
        _text.linear_scores([b"a"], weights, bias, 1)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="between 0 and 1"):
        _text.linear_train(["a"], labels + 2, weights, weights.copy(), bias, bias.copy(), 1, 0.1)
    with pytest.raises(ValueError, match="one number for each"):
        _text.linear_train(["a", "b"], labels, weights, weights.copy(), bias, bias.copy(), 1, 0.1)
    with pytest.raises(ValueError, match="squares"):
        _text.linear_train(["a"], labels, weights, weights[:4], bias, bias.copy(), 1, 0.1)
    with pytest.raises(TypeError):  # a copy would be trained, and thrown away
        _text.linear_train(["a"], labels, weights.astype(np.float64), weights.copy(), bias, bias.copy(), 1, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="order"):
        _text.NgramCounter(17)
    with pytest.raises(ValueError, match="power of two"):
        _text.log2_probabilities(["a"], np.zeros((3, 2), np.uint64), 2, 0.5)
    with pytest.raises(ValueError, match="shape"):
        _text.log2_probabilities(["a"], np.zeros(4, np.uint64), 2, 0.5)
    with pytest.raises(ValueError, match="backoff"):
        _text.log2_probabilities(["a"], np.zeros((4, 2), np.uint64), 2, float("nan"))


def _table(texts: list[str], order: int, min_count: int) -> tuple[np.ndarray, int, float]:
    counter = _text.NgramCounter(order)
    for text in texts:
        counter.add(text)
    assert counter.characters == sum(map(len, texts))
    return counter.table(min_count)
