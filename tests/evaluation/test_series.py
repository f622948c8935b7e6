"""Downsampling keeps extremes; smoothing keeps means; ticks are round and inside."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyjpllm.evaluation.series import axis_range, envelope, linear_ticks, log_ticks, moving_mean, short

values = hnp.arrays(np.float64, st.integers(1, 200), elements=st.floats(-1e6, 1e6) | st.just(math.nan))


@settings(max_examples=80, deadline=None)
@given(values, st.integers(1, 50))
def test_no_extreme_is_lost(series: np.ndarray, buckets: int) -> None:
    result = envelope(np.arange(len(series)), series, buckets)
    assert len(result.x) == min(len(series), buckets)
    if np.isfinite(series).any():
        assert np.nanmin(result.low) == np.nanmin(series)
        assert np.nanmax(result.high) == np.nanmax(series)
    some = np.isfinite(result.low)
    slack = 1e-6 * np.maximum(1, np.abs(result.mean[some]))
    assert (result.low[some] <= result.mean[some] + slack).all()
    assert (result.mean[some] <= result.high[some] + slack).all()
    assert (np.diff(result.x) > 0).all()


def test_few_values_are_kept_as_they_are() -> None:
    series = np.array([3.0, math.nan, math.inf, 5.0])
    result = envelope(np.array([1, 5, 6, 9]), series, 10)
    assert not result.bucketed
    assert result.x.tolist() == [1, 5, 6, 9]
    np.testing.assert_array_equal(result.mean, [3.0, math.nan, math.nan, 5.0])
    assert len(envelope(np.empty(0, dtype=np.int64), np.empty(0), 5).x) == 0


@settings(max_examples=60, deadline=None)
@given(values, st.integers(1, 60))
def test_moving_mean_is_the_plain_mean_of_a_centred_window(series: np.ndarray, window: int) -> None:
    result = moving_mean(series, window)
    for i in range(0, len(series), 7):
        half = min(window // 2, i, len(series) - 1 - i)
        inside = series[i - half : i + half + 1]
        inside = inside[np.isfinite(inside)]
        expected = inside.mean() if len(inside) else math.nan
        np.testing.assert_allclose(result[i], expected, rtol=1e-9, atol=1e-3)


def test_a_straight_line_is_not_bent() -> None:
    line = np.arange(50.0)
    np.testing.assert_allclose(moving_mean(line, 21), line)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_linear_ticks_are_inside(low: float, span: float) -> None:
    ticks = linear_ticks(low, low + span)
    assert len(ticks) <= 12
    assert all(low - 1e-6 * abs(low) - 1e-6 * span <= tick <= low + span + 1e-6 * (abs(low) + span) for tick in ticks)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-12, 1e6), st.floats(1.001, 1e12))
def test_log_ticks_are_inside(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 16
    assert all(low * 0.99 <= tick <= low * ratio * 1.01 for tick in ticks)


def test_an_axis_is_never_of_zero_width() -> None:
    for low, high in ((0.0, 0.0), (3.0, 3.0), (-1.0, 2.0)):
        bottom, top = axis_range(low, high, log=False)
        assert bottom < low <= high < top
    bottom, top = axis_range(2.0, 2.0, log=True)
    assert 0 < bottom < 2.0 < top


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234.0, "1234"),
        (12345.0, "12.35k"),
        (5_812_096.0, "5.812M"),
        (3e9, "3G"),
        (2e12, "2T"),
        (3e-5, "3e-5"),
        (0.034, "0.034"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text
