"""From an exception to lines on stderr and an exit code, also when the process is one of many ranks."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from pyjpllm.errors import UserError, did_you_mean, nearest

FAILED = 1
USER = 2
INTERRUPTED = 130

# A rank other than the first stays silent this long after a mistake of the user's. The first rank most likely found
# the same one, said it and left, and the launcher ends the others meanwhile; a rank still there has news of its own.
SILENCE_S = 5.0
# A rank that has nothing to say must not leave first: the launcher would end the job before the first rank has spoken.
PATIENCE_S = 30.0

# The first that is set tells the rank; the same launchers as in pyjpllm.distributed, which would import torch.
_RANKS = ("OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID", "RANK")
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PLE_RANK_ON_NODE",
                "SLURM_LOCALID", "LOCAL_RANK")  # fmt: skip
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "LOCAL_WORLD_SIZE")

# What the system says about disks, in a user's words.
_OS_ERRORS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EIO: "the disk or file system reports an input/output error",
    errno.EMFILE: "too many open files (raise `ulimit -n`)",
    errno.ENAMETOOLONG: "the name is too long",
}

_working = False


def rank() -> int:
    """This process's rank as the launcher says it; 0 for a plain process."""
    return _first_number(_RANKS) or 0


def ranks_here() -> int:
    """How many ranks of this job are on this node, as far as the launcher says; at least 1."""
    return max(1, _first_number(_LOCAL_SIZES) or 1)


def _first_number(names: Sequence[str]) -> int | None:
    for name in names:
        text = os.environ.get(name, "")
        if re.fullmatch(r"\d+", text):
            return int(text)
    return None


def report(error: BaseException, words: Sequence[str], *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Say on stderr what ``error`` means and return the exit code for it."""
    if isinstance(error, UserError):
        say_once([f"jpllm: {line}" for line in str(error).splitlines()], sleep)
        return USER
    format_message: Callable[[], str] | None = getattr(error, "format_message", None)
    if format_message is not None and type(error).__name__ == "NoArgsIsHelpError":
        print(format_message(), file=sys.stderr)
        return USER
    if format_message is not None:  # the command line itself is wrong: an option or an argument
        say_once([_usage(error, format_message(), words)], sleep)
        return USER
    if type(error).__name__ == "Abort":
        return INTERRUPTED
    prefix = f"rank {rank()}: " if _first_number(_RANKS) is not None else ""
    if isinstance(error, OSError) and error.errno in _OS_ERRORS:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        where = f"{names}: " if names else ""
        print(f"jpllm: {prefix}{where}{_OS_ERRORS[error.errno]}", file=sys.stderr)
        return FAILED
    if not debugging():  # then it is printed already, with all its frames
        error.__traceback__ = _own_part(error.__traceback__)
        for line in "".join(traceback.format_exception(error)).splitlines():
            print(f"{prefix}{line}", file=sys.stderr)
    return FAILED


def debugging() -> bool:
    """Was --debug given, or JPLLM_DEBUG set?"""
    return os.environ.get("JPLLM_DEBUG", "0") not in ("", "0")


def _own_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the subcommand on, without the frames that parse the command line."""
    folder = str(Path(__file__).parent)
    inner = trace
    while inner is not None:
        file = inner.tb_frame.f_code.co_filename
        if file.startswith(folder) and Path(file).name != "app.py":
            return inner
        inner = inner.tb_next
    return trace


def say_once(lines: Sequence[str], sleep: Callable[[float], None] = time.sleep) -> None:
    """Print lines that every rank most likely has: rank 0 now, another one only if it is still there a while later.

    Before the work starts only one rank a node speaks, since what differs then are the nodes' files.
    """
    me = rank()
    if me != 0:
        if not _working and _first_number(_LOCAL_RANKS):
            sleep(PATIENCE_S)
            return
        sleep(SILENCE_S)
    for line in lines:
        print(f"rank {me}: {line}" if me else line, file=sys.stderr)
    sys.stderr.flush()


def work_starts() -> None:
    """From here on ranks do different things, and any of them may find what the others do not."""
    global _working
    _working = True


def _usage(error: BaseException, message: str, words: Sequence[str]) -> str:
    """One line about a wrong option or argument, with the nearest option that there is."""
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", " ".join(["jpllm", *words[:1]]))
    name: str | None = getattr(error, "option_name", None)
    text = " ".join(message.split()).rstrip(".")
    if type(error).__name__ == "NoSuchOption" and name is not None and context is not None:
        options = [o for p in context.command.params for o in getattr(p, "opts", ()) if o.startswith("--")]
        match = nearest(name, [*options, "--help"])
        text = f"no such option {name}"
        text += f"; did you mean {match}?" if match is not None else f"; there are {', '.join(options)}"
        return f"{command}: {text}"
    unknown = re.match(r"No such command '([^']*)'", text)
    if unknown is not None and context is not None:
        known = list(getattr(context.command, "commands", ()))
        return f"{command}: no command {unknown[1]!r}{did_you_mean(unknown[1], known)}"
    text = text[:1].lower() + text[1:]
    return f"{command}: {text} (see '{command} --help')"
