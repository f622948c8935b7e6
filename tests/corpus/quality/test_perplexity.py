"""Training of language models over files, and what they say of documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyjpllm.corpus.quality import LanguageModel, load_language_model, train_language_model
from pyjpllm.corpus.quality.labels import Example
from pyjpllm.corpus.quality.perplexity import PERCENTILES, measure
from pyjpllm.errors import UserError
from tests.corpus.quality.examples import texts, write
from tests.corpus.quality.reference import WittenBell


def _written(path: Path, kind: int, count: int = 60) -> Path:
    return write(path, [Example(text, 0) for text in texts(kind, count)])


def test_perplexity_is_that_of_the_formula(tmp_path: Path) -> None:
    path = _written(tmp_path / "a.jsonl", 0)
    model = train_language_model([path], order=3, min_count=2, held_out=0)
    reference = WittenBell(texts(0, 60), 3, 2)
    some = [*texts(0, 3, seed=1), *texts(2, 3), "ん", ""]
    expected = [2.0 ** (-reference.log2(text) / max(1, len(text))) for text in some]
    assert model.perplexities(some) == pytest.approx(expected, rel=1e-5)
    assert model.perplexities([""]) == [1.0]
    assert "held_out" not in model.report


def test_it_knows_its_own(tmp_path: Path) -> None:
    model = train_language_model([_written(tmp_path / "a.jsonl", 0, 400)], held_out=0.1)
    own, other = (measure(model, texts(kind, 30, seed=5)) for kind in (0, 4))
    assert own["perplexity"] < other["perplexity"] / 2
    assert model.report["held_out"]["perplexity"] == pytest.approx(own["perplexity"], rel=0.05)
    assert model.report["documents"] + model.report["held_out"]["documents"] == 400
    percentiles = list(own["percentiles"].values())
    assert percentiles == sorted(percentiles)
    assert len(percentiles) == len(PERCENTILES)


def test_a_file_gives_the_same(tmp_path: Path) -> None:
    path = _written(tmp_path / "a.jsonl", 0)
    for name in ("a", "b"):
        train_language_model([path], held_out=0.2).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    model, again = train_language_model([path], held_out=0.2), load_language_model(tmp_path / "a")
    some = [*texts(1, 9), "", "ん"]
    assert again.perplexities(some) == model.perplexities(some)
    assert again.perplexities(some) == [again.perplexities([text])[0] for text in some]
    assert again.report == json.loads(json.dumps(model.report))
    assert isinstance(again, LanguageModel)


def test_mistakes(tmp_path: Path) -> None:
    path = _written(tmp_path / "a.jsonl", 0)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="no text to learn from"):
        train_language_model([tmp_path / "empty.jsonl"])
    with pytest.raises(UserError, match=r"n-grams of [\d,]+ documents take more than 0\.001 GiB"):
        train_language_model([path], max_gib=0.001)
    with pytest.raises(UserError, match="no text to measure"):
        measure(train_language_model([path]), ["", ""])
