"""Run a test function, or a whole program, on N ranks under mpirun.

def body(world, x):            # at the top of a test module: ranks import it by name
    ...
results = run_ranks(body, 2, 3)   # [result of rank 0, result of rank 1]
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def mpirun() -> tuple[str, ...]:
    """The mpirun beside this Python (or on the PATH), with the options that let N ranks share few cores."""
    beside = Path(sys.executable).parent / "mpirun"
    program = str(beside) if beside.exists() else "mpirun"
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if "Open MPI" in version:
        return (program, "--oversubscribe", "--bind-to", "none")
    return (program,)


def rank_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of test ranks: one thread each, this tree importable, and not seen as part of another launch."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_COMM_", "PMIX_", "PMI_", "SLURM_"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        clean.pop(name, None)
    path = os.pathsep.join(p for p in (str(ROOT), clean.get("PYTHONPATH", "")) if p)
    clean.update(OMP_NUM_THREADS="1", PYTHONPATH=path, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    clean.update(env or {})
    return clean


def launch(
    argv: Sequence[str],
    nranks: int,
    *,
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` on ``nranks`` ranks and return its end, output as text. A timeout kills all of it and raises."""
    command = [*mpirun(), "-n", str(nranks), *argv]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=rank_environment(env),
        cwd=cwd or ROOT,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            out, err = _end(process)
            raise AssertionError(
                f"{' '.join(command)}: not done after {timeout} s\n{_tail(out)}\n{_tail(err)}"
            ) from None
        except BaseException:
            _end(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End mpirun and its ranks: politely, then not."""
    for signal_number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=patience)
    return "", ""


def _tail(text: str, characters: int = 6000) -> str:
    return text[-characters:]


class Ranks:
    """Ranks that have started and take one function after another: most of a short test is the start of Python."""

    def __init__(self, nranks: int, backend: str, env: Mapping[str, str] | None = None) -> None:
        self.nranks = nranks
        self._folder = Path(tempfile.mkdtemp(prefix="pyjpllm-ranks-"))
        for name in ("from", *(f"to-{rank}" for rank in range(nranks))):
            os.mkfifo(self._folder / name)
        # Open for both ways: neither side waits for the other to come, and a reader sees the end when all have closed.
        self._answers = os.open(self._folder / "from", os.O_RDWR | os.O_NONBLOCK)
        self._tasks = [os.open(self._folder / f"to-{rank}", os.O_RDWR | os.O_CLOEXEC) for rank in range(nranks)]
        start = [] if nranks == 1 else [*mpirun(), "-n", str(nranks)]
        with open(self._folder / "stdout", "wb") as out, open(self._folder / "stderr", "wb") as err:
            self._process = subprocess.Popen(
                [*start, sys.executable, "-m", "tests._mpi_worker", backend, str(self._folder)],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                env=rank_environment(env),
                cwd=ROOT,
                start_new_session=True,
            )

    def call(self, task: Path, timeout: float) -> None:
        """Have all ranks carry out a task; AssertionError, and the ranks are gone, when one fails or time is up."""
        for pipe in self._tasks:
            os.write(pipe, f"{task}\n".encode())
        end, answers, ok = time.monotonic() + timeout, b"", 0
        while ok < self.nranks:
            ready = select.select([self._answers], [], [], 0.2)[0]
            if ready:
                answers += os.read(self._answers, 1 << 16)
                *lines, answers = answers.split(b"\n")
                ok += sum(line.endswith(b" ok") for line in lines)
                if any(line.endswith(b" failed") for line in lines):
                    self._wait(20)  # for the tracebacks of the others
                    raise AssertionError(self.end())
            if self._process.poll() is not None:
                raise AssertionError(self.end())
            if time.monotonic() > end:
                raise AssertionError(f"not done after {timeout} s; {self.end(0)}")

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def end(self, patience: float = 60) -> str:
        """No more tasks: they leave, or are made to. What they have said, for a failed test."""
        for pipe in self._tasks:
            os.close(pipe)
        self._tasks = []
        self._wait(patience)
        if self._process.poll() is None:
            _end(self._process)
        os.close(self._answers)
        said = {name: _tail((self._folder / name).read_text(errors="replace")) for name in ("stdout", "stderr")}
        shutil.rmtree(self._folder)
        return f"exit code {self._process.returncode}\n--- stdout\n{said['stdout']}\n--- stderr\n{said['stderr']}"


# Ranks that wait for the next test, those used last at the end; about so many processes at a time.
_waiting: dict[int, Ranks] = {}
_MOST_WAITING = 22


def end_waiting_ranks() -> None:
    """Let all ranks go that wait for the next test."""
    while _waiting:
        _waiting.popitem()[1].end()


def _ranks(nranks: int) -> Ranks:
    """Ranks over mpi4py that have waited, or new ones; they are the caller's until it puts them back."""
    found = _waiting.pop(nranks, None)
    if found is None:
        while _waiting and sum(ranks.nranks for ranks in _waiting.values()) + nranks > _MOST_WAITING:
            _waiting.pop(next(iter(_waiting))).end()
        found = Ranks(nranks, "mpi4py")
    return found


def run_ranks(
    fn: Callable[..., Any],
    nranks: int,
    *args: Any,
    backend: str = "mpi4py",
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
    fresh: bool = False,
    **kwargs: Any,
) -> list[Any]:
    """Call ``fn(world, *args, **kwargs)`` on every rank after ``pyjpllm.distributed.init(backend)``.

    ``fn`` is imported on the ranks by module and name, so it stands at the top of a module. Arguments and results
    are pickled. Returns the results in rank order; a rank that fails raises AssertionError with its traceback.
    One rank runs without mpirun. Ranks stay for the next call, unless it is ``fresh``, for a function that changes what
    is global, has an environment of its own, or is over gloo, whose groups keep their threads.
    """
    if "<locals>" in fn.__qualname__ or fn.__name__ == "<lambda>":
        raise ValueError(f"{fn.__qualname__}: ranks import the function by name, so it must be at the top of a module")
    alone = fresh or env is not None or backend != "mpi4py"
    ranks = Ranks(nranks, backend, env) if alone else _ranks(nranks)
    with tempfile.TemporaryDirectory(prefix="pyjpllm-task-") as folder:
        task = Path(folder) / "task.pkl"
        task.write_bytes(pickle.dumps((fn.__module__, fn.__qualname__, args, kwargs)))
        try:
            ranks.call(task, timeout)
        except AssertionError as end:
            errors = [path.read_text() for path in sorted(Path(folder).glob("error-*.txt"))]
            report = "\n".join(errors) or "no rank left a traceback"
            what = f"{fn.__module__}.{fn.__qualname__} on {nranks} ranks, {backend}"
            raise AssertionError(f"{what}: {report}\n{end}") from None
        except BaseException:
            ranks.end()
            raise
        results = [pickle.loads((Path(folder) / f"result-{rank:04d}.pkl").read_bytes()) for rank in range(nranks)]
    if alone:
        ranks.end()
    else:
        _waiting[nranks] = ranks
    return results
