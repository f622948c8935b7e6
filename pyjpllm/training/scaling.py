"""Loss scaling: FP16 loses gradients below 6e-8, so the loss is multiplied before backward and the sums divided after.

Micikevicius et al., 2018, arXiv:1710.03740.
"""

from __future__ import annotations

from typing import Any

from pyjpllm.config.schema import PrecisionConfig

INITIAL, SMALLEST, LARGEST = 2.0**16, 1.0, 2.0**24
"""Powers of two, so that scaling alone changes no bit."""


class LossScale:
    """The factor on the loss: fixed, or following the gradients (FP16 with ``precision.loss_scale = 0``).

    One that follows is halved after a step whose gradients overflowed and doubled after as many good ones as
    ``precision.loss_scale_interval`` says. ``value`` is the factor of the step under way; every rank sees the same
    steps, so all have the same.
    """

    def __init__(self, config: PrecisionConfig) -> None:
        self.follows = config.dtype == "fp16" and config.loss_scale == 0
        self.value = INITIAL if self.follows else config.loss_scale or 1.0
        self.interval = config.loss_scale_interval
        self.good_steps = 0

    def overflowed(self) -> bool:
        """After gradients that are not finite: whether a smaller factor was left to try, and is taken."""
        self.good_steps = 0
        if not self.follows or self.value <= SMALLEST:
            return False
        self.value = max(SMALLEST, self.value / 2)
        return True

    def good(self) -> None:
        """After a step that was taken."""
        self.good_steps += 1
        if self.follows and self.good_steps >= self.interval:
            self.good_steps = 0
            self.value = min(LARGEST, self.value * 2)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"value": self.value, "good_steps": self.good_steps}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; a factor that the config fixes now stays."""
        if self.follows:
            self.value, self.good_steps = float(state["value"]), int(state["good_steps"])
