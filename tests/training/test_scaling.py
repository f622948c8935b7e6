"""The factor on the loss: when it moves, where it stops, what a checkpoint keeps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.config.schema import PrecisionConfig
from pyjpllm.training.scaling import INITIAL, LARGEST, SMALLEST, LossScale


def scale(dtype: str = "fp16", factor: float = 0.0, interval: int = 3) -> LossScale:
    return LossScale(PrecisionConfig(dtype=dtype, loss_scale=factor, loss_scale_interval=interval))


def test_only_fp16_follows_and_only_when_nothing_is_fixed() -> None:
    assert [scale(dtype).value for dtype in ("fp32", "bf16", "fp64")] == [1.0, 1.0, 1.0]
    assert scale().value == INITIAL
    fixed = scale(factor=256.0)
    assert not fixed.overflowed()
    for _ in range(10):
        fixed.good()
    assert fixed.value == 256.0


def test_it_is_halved_by_an_overflow_and_doubled_by_good_steps() -> None:
    s = scale()
    s.good(), s.good()
    assert s.overflowed()
    assert s.value == INITIAL / 2
    s.good(), s.good()
    assert s.value == INITIAL / 2  # the good steps before the overflow do not count
    s.good()
    assert s.value == INITIAL


@given(st.lists(st.booleans(), max_size=80))
def test_it_stays_a_power_of_two_between_its_bounds_and_survives_a_checkpoint(steps: list[bool]) -> None:
    s, other = scale(interval=1), scale(interval=1)
    for good in steps:
        if good:
            s.good()
        else:
            before = s.value
            assert s.overflowed() == (before > SMALLEST)
            assert s.value == max(SMALLEST, before / 2)
        assert SMALLEST <= s.value <= LARGEST
        assert s.value.hex().startswith("0x1.0000000000000p")
        other.load(s.state())
        assert other.state() == s.state()
