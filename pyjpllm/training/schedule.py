"""The learning rate of each optimizer step."""

from __future__ import annotations

import math

from pyjpllm.config.schema import ScheduleConfig


def learning_rate(step: int, *, peak: float, schedule: ScheduleConfig, total_steps: int) -> float:
    """The rate of optimizer step ``step`` (the first is 1) of ``total_steps``.

    ``wsd`` follows Haegele et al. 2024 (arXiv 2405.18392): constant, then ``1 - sqrt`` over the last part of the run;
    ``cosine`` follows Loshchilov and Hutter 2017. Beyond ``total_steps`` the last value is kept.
    """
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    floor = schedule.min_lr_ratio
    done = min(step, total_steps) - 1
    if schedule.kind == "cosine":
        progress = (done - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps)
        return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))
    if schedule.kind == "wsd":
        decay_steps = round(schedule.decay_fraction * total_steps)
        start = total_steps - decay_steps
        if done >= start and decay_steps > 0:
            return peak * (floor + (1.0 - floor) * (1.0 - math.sqrt((done - start) / decay_steps)))
    return peak
