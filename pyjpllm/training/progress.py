"""What a person sees while a run goes: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def make_console() -> Console:
    """A console on standard error that knows a terminal also through ``mpirun``, which puts a pipe in between.

    A rank's parent is then the launcher; where its standard error is a terminal, what the rank prints ends there.
    """
    if not sys.stderr.isatty() and "OMPI_COMM_WORLD_RANK" in os.environ:
        try:
            target = Path(f"/proc/{os.getppid()}/fd/2").resolve()
            if str(target).startswith(("/dev/pts/", "/dev/tty")):
                terminal = os.open(target, os.O_RDONLY | os.O_NOCTTY)
                try:
                    width = os.get_terminal_size(terminal).columns
                finally:
                    os.close(terminal)
                return Console(file=sys.stderr, highlight=False, force_terminal=True, width=width or 80)
        except OSError:
            pass
    return Console(file=sys.stderr, highlight=False)


class ProgressReport:
    """Shows the steps of a run. Only rank 0 makes one with ``visible=True``."""

    def __init__(self, total_steps: int, first_step: int, interval: int, *, visible: bool) -> None:
        self.interval = interval
        self.total_steps = total_steps
        self.visible = visible
        self.console = make_console()
        self._bar: Progress | None = None
        if visible and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                refresh_per_second=2,
            )
            self._task = self._bar.add_task("train", total=total_steps, completed=first_step - 1, numbers="")
            self._bar.start()

    def step(self, record: dict[str, Any]) -> None:
        """Show one step."""
        if not self.visible:
            return
        numbers = f"loss {record['loss']:.4f}  lr {record['lr']:.2e}  {record['tokens_per_second']:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], numbers=numbers)
        elif record["step"] % self.interval == 0 or record["step"] == self.total_steps:
            self.say(f"step {record['step']}/{self.total_steps}  {numbers}  grad norm {record['grad_norm']:.3f}")

    def say(self, line: str) -> None:
        """Print one line (above the bar, where there is one)."""
        if self.visible:
            self.console.print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
