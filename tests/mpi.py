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
import signal
import subprocess
import sys
import tempfile
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


def run_ranks(
    fn: Callable[..., Any],
    nranks: int,
    *args: Any,
    backend: str = "mpi4py",
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> list[Any]:
    """Call ``fn(world, *args, **kwargs)`` on every rank after ``pyjpllm.distributed.init(backend)``.

    ``fn`` is imported on the ranks by module and name, so it stands at the top of a module. Arguments and results
    are pickled. Returns the results in rank order; a rank that fails raises AssertionError with its traceback.
    One rank runs without mpirun.
    """
    if "<locals>" in fn.__qualname__ or fn.__name__ == "<lambda>":
        raise ValueError(f"{fn.__qualname__}: ranks import the function by name, so it must be at the top of a module")
    with tempfile.TemporaryDirectory(prefix="pyjpllm-ranks-") as folder:
        task = Path(folder) / "task.pkl"
        task.write_bytes(pickle.dumps((fn.__module__, fn.__qualname__, backend, args, kwargs)))
        argv = [sys.executable, "-m", "tests._mpi_worker", str(task)]
        if nranks == 1:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                env=rank_environment(env),
                cwd=ROOT,
                timeout=timeout,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        else:
            done = launch(argv, nranks, timeout=timeout, env=env)
        errors = [path.read_text() for path in sorted(Path(folder).glob("error-*.txt"))]
        if errors or done.returncode != 0:
            report = "\n".join(errors) or "no rank left a traceback"
            raise AssertionError(
                f"{fn.__module__}.{fn.__qualname__} on {nranks} ranks, {backend}: exit code {done.returncode}\n"
                f"{report}\n--- stdout\n{_tail(done.stdout)}\n--- stderr\n{_tail(done.stderr)}"
            )
        return [pickle.loads((Path(folder) / f"result-{rank:04d}.pkl").read_bytes()) for rank in range(nranks)]
