"""The study of many documents and that of recall, small: that what they count is what they planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks import corpus_recall
from benchmarks.corpus import kills, many
from pyjpllm.corpus import read_documents


def test_drawn_documents(tmp_path: Path) -> None:
    assert many.make(tmp_path / "in", 400, 30) == 400
    texts = [document.text for document in read_documents(tmp_path / "in")]
    assert {len(text) for text in texts} == {30}
    assert texts[-20:] == texts[:20]
    differ = [
        sum(a != b for a, b in zip(*pair, strict=True)) for pair in zip(texts[20:40], texts[-40:-20], strict=True)
    ]
    assert differ == [1] * 20
    assert len(set(texts)) == 380
    copies, near = many.expected(400, 30)
    assert copies == 20
    assert 0 < near < 20


def test_a_small_run(tmp_path: Path) -> None:
    many.make(tmp_path / "in", 2000, 60)
    many.run(tmp_path, tmp_path / "found.json")
    text = many.table(json.loads((tmp_path / "found.json").read_text()), 2000, 60, 1.0)
    assert "exact copies: planted, dropped | 100, 100 |" in text


def test_a_small_study_of_recall() -> None:
    pairs = corpus_recall.Pairs(300, 150)
    assert np.histogram(pairs.similarity, 5)[0].min() > 30
    lines, worst = corpus_recall.curves(pairs)
    assert len(lines) > 20
    assert worst < 0.25
    assert "| 10 | 10 | 0 paragraphs |" in corpus_recall.others(20)[3]
    assert corpus_recall.strangers(40)[-1].endswith("| 0 |")


def test_where_a_run_was_killed(tmp_path: Path) -> None:
    assert kills.where(tmp_path / "run") == "before the first record"
    (tmp_path / "run" / "records" / "1").mkdir(parents=True)
    assert kills.where(tmp_path / "run") == "in pass 1"
    (tmp_path / "run" / "work" / "1-step").mkdir(parents=True)
    assert kills.where(tmp_path / "run") == "in the step behind pass 1"
    (tmp_path / "run" / "report.json").touch()
    assert kills.where(tmp_path / "run") == "at the end"
