"""Skipped steps and stop signals."""

from __future__ import annotations

import os
import signal

import pytest

from pyjpllm.training.faults import STOP_SIGNALS, StepJudge, StopRequest, TrainingError


def test_a_step_that_is_not_finite_is_skipped_and_counted() -> None:
    judge = StepJudge(limit=3)
    assert judge.accept(1, 2.0, 1.0)
    assert not judge.accept(2, float("nan"), 1.0)
    assert not judge.accept(3, 2.0, float("inf"))
    assert judge.accept(4, 2.0, 1.0)
    assert (judge.skipped, judge.in_a_row) == (2, 0)


def test_an_excused_step_is_skipped_and_counts_as_none_of_a_row() -> None:
    judge = StepJudge(limit=2)
    assert not judge.accept(1, 2.0, float("inf"), excuse=lambda: True)
    assert not judge.accept(2, 2.0, float("inf"), excuse=lambda: True)
    assert (judge.skipped, judge.in_a_row) == (2, 0)
    assert not judge.accept(3, float("nan"), 1.0, excuse=lambda: True)  # a loss that is not finite has no excuse
    with pytest.raises(TrainingError):
        judge.accept(4, 2.0, float("inf"), excuse=lambda: False)


def test_too_many_in_a_row_end_the_run_with_the_numbers_and_the_field() -> None:
    judge = StepJudge(limit=2)
    judge.accept(7, float("nan"), 1.0)
    with pytest.raises(TrainingError, match=r"step 8: loss 1.0, gradient norm inf: 2 steps.*max_skipped_steps = 2"):
        judge.accept(8, 1.0, float("inf"))


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_is_remembered_once_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = StopRequest()
    with stop.watching():
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
        # A second signal must be able to end a process that hangs.
        assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    assert signal.getsignal(number) == before
