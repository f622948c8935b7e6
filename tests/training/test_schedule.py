"""Learning rates: the closed forms, and what must hold for every schedule."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.config.schema import ScheduleConfig
from pyjpllm.training.schedule import learning_rate


def rate(step: int, total: int = 100, **schedule: object) -> float:
    return learning_rate(step, peak=2.0, schedule=ScheduleConfig(**schedule), total_steps=total)


def test_wsd_warms_up_stays_and_decays_with_one_minus_root() -> None:
    shape = {"kind": "wsd", "warmup_steps": 10, "decay_fraction": 0.2}
    assert rate(1, **shape) == pytest.approx(0.2)
    assert rate(10, **shape) == rate(80, **shape) == 2.0
    assert rate(81, **shape) == 2.0  # the decay begins here, from the peak
    assert rate(86, **shape) == pytest.approx(2.0 * (1 - math.sqrt(5 / 20)))
    assert 0 < rate(100, **shape) < 0.06


def test_wsd_decays_to_the_floor() -> None:
    assert rate(100, kind="wsd", decay_fraction=1.0, min_lr_ratio=0.1) == pytest.approx(
        2.0 * (0.1 + 0.9 * (1 - math.sqrt(0.99)))
    )


def test_wsd_without_decay_stays_at_the_peak() -> None:
    assert rate(100, kind="wsd", decay_fraction=0.0) == 2.0


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert rate(51, kind="cosine", min_lr_ratio=0.1) == pytest.approx(2.0 * 0.55)
    assert rate(1, kind="cosine") == 2.0


def test_constant_stays() -> None:
    assert rate(4, kind="constant", warmup_steps=8) == 1.0
    assert rate(100, kind="constant", warmup_steps=8) == 2.0


@given(
    kind=st.sampled_from(["wsd", "cosine", "constant"]),
    total=st.integers(2, 300),
    warmup=st.floats(0, 0.9),
    decay=st.floats(0, 1),
    floor=st.floats(0, 1),
)
def test_every_schedule_rises_then_never_rises_again(
    kind: str, total: int, warmup: float, decay: float, floor: float
) -> None:
    steps = int(warmup * total)
    schedule = ScheduleConfig(kind=kind, warmup_steps=steps, decay_fraction=decay, min_lr_ratio=floor)
    rates = [learning_rate(s, peak=1.0, schedule=schedule, total_steps=total) for s in range(1, total + 3)]
    assert all(0 <= r <= 1 + 1e-12 for r in rates)
    assert all(a <= b for a, b in itertools.pairwise(rates[:steps]))
    after = rates[max(0, steps - 1) :]
    if not (kind == "wsd" and steps > total - round(decay * total)):  # a decay that begins inside the warm-up
        assert all(b <= a + 1e-12 for a, b in itertools.pairwise(after))
    assert rates[-1] == rates[-2] == rates[-3]
    assert min(after) >= floor - 1e-12
