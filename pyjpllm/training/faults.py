"""What can go wrong in a run and what is done: a step that is not finite, a signal that asks to stop."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

# SIGUSR1 is the one that Open MPI's mpirun hands on to ranks unasked; it answers SIGTERM and SIGINT by killing them.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGUSR1)


class TrainingError(RuntimeError):
    """The run can't go on for a reason in the numbers, not in what the user wrote."""


@dataclass
class StepJudge:
    """Counts steps whose loss or gradient is not finite; such a step is skipped, too many in a row end the run."""

    limit: int
    skipped: int = 0
    in_a_row: int = 0

    def accept(self, step: int, loss: float, grad_norm: float, *, excuse: Callable[[], bool] | None = None) -> bool:
        """Whether the update of ``step`` may be made. Both numbers are the same on all ranks, so the answer is too.

        ``excuse`` is asked where the loss is finite and its gradient is not: true says that a cause was found and
        removed (a loss scale too large); such a step is skipped but counts as none of a row.
        Raises TrainingError after ``limit`` refusals in a row.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.in_a_row = 0
            return True
        self.skipped += 1
        if excuse is not None and math.isfinite(loss) and excuse():
            return False
        self.in_a_row += 1
        if self.in_a_row >= self.limit:
            raise TrainingError(
                f"step {step}: loss {loss}, gradient norm {grad_norm}: {self.in_a_row} steps in a row were not finite "
                f"(train.max_skipped_steps = {self.limit}); a lower optimizer.lr or an earlier checkpoint may help"
            )
        return False


class StopRequest:
    """Remembers a signal that asks the run to stop; the step under way is finished and saved first.

    A second signal of the same kind acts as it would without this.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[int, object] = {}

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)

    @contextlib.contextmanager
    def watching(self) -> Iterator[StopRequest]:
        """Handle the stop signals inside this block; the handlers from before are put back after it.

        Enter it before MPI starts: some MPI libraries take a signal for themselves when it has no handler yet.
        """
        self._previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in self._previous.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
