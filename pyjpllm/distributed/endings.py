"""How a rank leaves: an error on one rank must end all of them, at once and with a code that is not 0.

MPI_Finalize waits for everybody, so a rank that fails must not enter it: it leaves without, and the launcher ends
the job. Three ways out are told apart: an exception nobody caught, ``sys.exit`` with an error, and a normal end.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

_exit_code = 0


def failing() -> bool:
    """Whether this process is ending because of an error (or runs a ``finally`` on its way there)."""
    if getattr(sys, "last_value", None) is not None or _exit_code != 0:
        return True
    error = sys.exc_info()[1]
    if isinstance(error, SystemExit):
        return error.code not in (None, 0)
    return error is not None


def install(rank: int, on_failure: Callable[[], None]) -> None:
    """Hook ``sys.exit`` and ``sys.excepthook``; ``on_failure`` runs before the process ends."""
    _remember_exit_code()

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # Not through sys.stderr: torch's own hook has replaced it meanwhile and would print only afterwards.
        text = "".join(traceback.format_exception(kind, error, trace))
        with contextlib.suppress(Exception):
            sys.__stderr__.write("".join(f"[rank {rank}] {line}\n" for line in text.splitlines()))  # type: ignore[union-attr]
        leave(130 if issubclass(kind, KeyboardInterrupt) else 1, on_failure)

    sys.excepthook = excepthook


def leave(code: int, on_failure: Callable[[], None]) -> None:
    """End this process now, without MPI_Finalize."""
    on_failure()
    for stream in (sys.stdout, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):
            stream.flush()  # type: ignore[union-attr]
    os._exit(code)


def exit_code() -> int:
    """The code for a process that is failing: what ``sys.exit`` was given, or 1."""
    return _exit_code or 1


class _Fate:
    """Dies with the SystemExit it hangs on. No Python frame below it then means that nobody caught the exception:
    the interpreter is ending."""

    count = 0

    def __init__(self, code: int) -> None:
        self._code = code
        _Fate.count += 1
        self._number = _Fate.count

    def __del__(self) -> None:
        global _exit_code
        # An earlier one may die here as the context of the last.
        if sys._getframe().f_back is None and self._number == _Fate.count:
            _exit_code = self._code


def _remember_exit_code() -> None:
    """``atexit`` functions are not told the exit code: note it on the way."""
    if getattr(sys.exit, "remembers", False):
        return

    def remembering_exit(status: Any = None, /) -> NoReturn:
        error = SystemExit(status)
        error.fate = _Fate(0 if status is None else status if isinstance(status, int) else 1)  # type: ignore[attr-defined]
        try:
            raise error
        finally:
            del error  # or this frame, which the traceback holds, would keep it alive

    remembering_exit.remembers = True  # type: ignore[attr-defined]
    sys.exit = remembering_exit
