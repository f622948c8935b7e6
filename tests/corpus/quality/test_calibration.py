"""Calibration and metrics: against definitions, and what must hold for any input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.corpus.quality import metrics
from pyjpllm.corpus.quality.calibration import Calibration, fit, none


def test_it_finds_what_the_scores_were_distorted_by() -> None:
    random = np.random.default_rng(1)
    true = Calibration(0.4, (0.0, -0.7, 1.1))
    scores = random.normal(size=(20_000, 3)) * 4
    labels = np.array([random.choice(3, p=true(row)) for row in scores.tolist()])
    found = fit(scores, labels)
    assert found.scale == pytest.approx(0.4, rel=0.05)
    assert found.shifts == pytest.approx((0.0, -0.7, 1.1), abs=0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(0, 10**6))
def test_the_fit_is_no_worse_than_none_and_has_no_slope(labels: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(size=(60, labels)) * random.uniform(0.1, 5)
    truth = np.concatenate([np.arange(labels), random.integers(labels, size=60 - labels)])
    counts = np.bincount(truth)

    def loss(calibration: Calibration) -> float:
        total = 0.0
        for row, label in zip(scores.tolist(), truth.tolist(), strict=True):
            for place, p in enumerate(calibration(row)):
                own = (counts[label] + 1) / (counts[label] + 2)
                total -= (own if place == label else (1 - own) / (labels - 1)) * math.log(p)
        return total

    found = fit(scores, truth)
    best = loss(found)
    assert best <= loss(none(labels)) + 1e-9
    for change in (1e-4, -1e-4):
        assert loss(Calibration(found.scale + change, found.shifts)) >= best - 1e-9
        assert loss(Calibration(found.scale, (*found.shifts[:-1], found.shifts[-1] + change))) >= best - 1e-9


def test_documents_told_apart_without_error_keep_it_finite() -> None:
    scores = np.array([[0.0, -3.0]] * 20 + [[0.0, 3.0]] * 20)
    found = fit(scores, np.array([0] * 20 + [1] * 20))
    assert found([0.0, 3.0])[1] == pytest.approx(21 / 22, abs=1e-4)  # Platt's target


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=4), st.floats(-5, 5))
def test_probabilities_are_probabilities(scores: list[float], scale: float) -> None:
    found = Calibration(scale, (0.0,) * len(scores))(scores)
    assert all(0 <= p <= 1 for p in found)
    assert math.fsum(found) == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_area_under_curve_is_the_share_of_pairs(rows: list[tuple[int, bool]]) -> None:
    good = [score for score, is_good in rows if is_good]
    others = [score for score, is_good in rows if not is_good]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in good for b in others]
    found = metrics.area_under_curve(np.array([float(s) for s, _ in rows]), np.array([g for _, g in rows]))
    if pairs:
        assert found == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert found is None


def test_calibration_error_by_hand() -> None:
    p = np.array([[0.05, 0.95]] * 10 + [[0.42, 0.58]] * 10)
    labels = np.array([1] * 9 + [0] + [1] * 5 + [0] * 5)
    assert metrics.calibration_error(p, labels) == pytest.approx((10 * 0.05 + 10 * 0.08) / 20)
    assert metrics.accuracy(p, labels) == 14 / 20
    own = [0.95] * 9 + [0.05] + [0.58] * 5 + [0.42] * 5
    assert metrics.log_loss(p, labels) == pytest.approx(-sum(map(math.log, own)) / 20)
    assert metrics.log_loss(np.array([[0.0, 1.0]]), np.array([0])) < 40  # not infinite


def test_thresholds_by_hand() -> None:
    rows = metrics.by_threshold(np.array([0.1, 0.5, 0.9]), np.array([False, True, True]), 0.0, 1.0)
    by = {row["threshold"]: row for row in rows}
    assert len(rows) == 20
    assert by[0.0] == {"threshold": 0.0, "kept": 1.0, "precision": 2 / 3, "recall": 1.0, "f1": 0.8}
    assert by[0.5] == {"threshold": 0.5, "kept": 2 / 3, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert by[0.95] == {"threshold": 0.95, "kept": 0.0, "precision": None, "recall": 0.0, "f1": 0.0}
