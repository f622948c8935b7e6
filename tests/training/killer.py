"""Trains in children that are killed with SIGKILL at random moments, and reports where each was.

    python -m tests.training.killer DATA RUN SEED KILLS [COPIES]

Half of the moments are a random delay after the start of a random step, half are a random call inside a save. The
parent imports everything once and forks, so that a life of the run costs a fraction of a second. With COPIES a life has
two ranks, over gloo: one dies and the other shortly after, and checkpoints are kept in COPIES as well. After each death
every checkpoint that was made complete, and is among those to be kept, must be there and whole, in both places.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyjpllm.training import checkpoint, copying, folders, trainer
from pyjpllm.training.folders import checkpoints_of, steps_in
from pyjpllm.training.manifest import Manifest, locate
from tests.training.small import small_config

OVERRIDES = ("train.steps=90", "checkpoint.interval=1", "train.micro_batch=4", "data.valid=[]")
KEPT = 3
PAIR = (
    *("train.steps=60", "checkpoint.interval=1", f"checkpoint.keep_last={KEPT}", "train.micro_batch=4"),
    *("data.valid=[]", "parallel.backend=gloo", "parallel.zero=1"),
)


def die() -> None:
    """End as a crashed node ends: no handler, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, calls: int) -> None:
    """Die at the ``calls``-th call of ``owner.name``, before it does anything."""
    original, left = getattr(owner, name), [calls]

    def dying(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            die()
        return original(*args, **kwargs)

    setattr(owner, name, dying)


def after_some_bytes(owner: Any, name: str, calls: int) -> None:
    """Die in the ``calls``-th call of ``owner.name(source, path)`` with half a file on the disk."""
    original, left = getattr(owner, name), [calls]

    def dying(source: Any, path: Path) -> None:
        original(source, path)
        left[0] -= 1
        if left[0] == 0:
            os.truncate(path, path.stat().st_size // 2)
            die()

    setattr(owner, name, dying)


def arm(rng: random.Random, rank: int, copies: bool) -> str:
    """Choose the moment of death of this rank and prepare it; what was chosen, in words."""
    calls = rng.randint(1, 5)
    if rng.random() < 0.5:
        delay = rng.random() * 0.08
        original: Callable[..., Any] = trainer.Trainer._one_step
        left = [calls]

        def one_step(self: trainer.Trainer) -> Any:
            left[0] -= 1
            if left[0] == 0:
                threading.Timer(delay, die).start()
            return original(self)

        trainer.Trainer._one_step = one_step  # type: ignore[method-assign]
        return f"{delay * 1000:.0f} ms after the start of step {calls} of this life"
    points: dict[str, Callable[[], None]] = {
        "with half a file written": lambda: after_some_bytes(checkpoint, "save_file", calls),
        "before a file's fsync": lambda: before(checkpoint, "fsync_file", calls),
    }
    if rank == 0:
        points |= {
            "before the manifest": lambda: before(Manifest, "write", calls),
            "before the rename": lambda: before(folders.os, "rename", calls),
            "after the rename": lambda: before(checkpoint, "sweep", calls),
            "while old checkpoints are removed": lambda: before(folders.shutil, "rmtree", calls + 1),
        }
    if copies:
        points |= {
            "with half a file copied": lambda: after_some_bytes(copying, "copy_file", calls),
            "before a copied file is verified": lambda: before(copying, "verify", calls),
        }
    if copies and rank == 0:
        points |= {
            "before the copy is complete": lambda: before(copying, "publish", calls),
            "after the copy is complete": lambda: before(copying, "sweep", calls),
        }
    name = rng.choice(sorted(points))
    points[name]()
    return f"{name}, call {calls} of this life"


def logged(owner: Any, log: Path) -> None:
    """Write down which folder has become a checkpoint, when it has."""
    original = owner.publish

    def publish(temporary: Path, folder: Path) -> None:
        original(temporary, folder)
        with open(log, "a", buffering=1) as file:
            file.write(f"{folder}\n")

    owner.publish = publish


def check_whole(run: Path, copies: Path, log: Path) -> int:
    """How many checkpoints there are; AssertionError unless those to be kept are there, and all of them whole."""
    made: dict[Path, set[int]] = defaultdict(set)
    for line in log.read_text().splitlines() if log.exists() else ():
        made[Path(line).parent].add(int(Path(line).name.removeprefix("step-")))
    found: dict[Path, list[int]] = {place: steps_in(place) for place in (checkpoints_of(run), copies)}
    for place, steps in found.items():
        # One that is there was made, too: the kill can fall between its rename and its line in the log.
        lost = set(sorted(made[place].union(steps))[-KEPT:]) - set(steps)
        assert not lost, f"{place} has {steps}; lost: {lost}"
        for step in steps:
            folder = place / f"step-{step:08d}"
            manifest = Manifest.read(folder)
            assert locate([folder], manifest, list(manifest.files)).problem is None
    for step in set(found[copies]) & set(found[checkpoints_of(run)]):
        ours, theirs = (place / f"step-{step:08d}" for place in found)
        assert {p.name: p.read_bytes() for p in ours.iterdir()} == {p.name: p.read_bytes() for p in theirs.iterdir()}
    return sum(map(len, found.values()))


def live(config: Any, run: Path, seed: int | None, rank: int, size: int, log: Path) -> None:
    """A rank's life, in a child; with a seed it dies of it."""
    if size > 1:  # as mpiexec.hydra says it
        job = {"PMI_RANK": rank, "PMI_SIZE": size, "MPI_LOCALRANKID": rank, "MPI_LOCALNRANKS": size}
        os.environ.update({name: str(value) for name, value in job.items()})
        logged(checkpoint, log)
        logged(copying, log)
    if seed is not None:
        print(json.dumps({"rank": rank, "moment": arm(random.Random(seed), rank, size > 1)}), flush=True)
    result = trainer.train(config, run)
    if rank == 0:
        print(json.dumps({"finished": result.finished, "step": result.step}), flush=True)


def fork(*args: Any) -> int:
    """The child that does it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            live(*args)
            status = 0
        except BaseException:  # of a rank whose other one has died
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return child


def run_once(config: Any, run: Path, seed: int | None, size: int, log: Path) -> bool:
    """One life of all ranks; whether it was ended by the kill."""
    os.environ["PMI_JOBID"] = f"{run.name}-{seed}"
    rng = random.Random(seed)
    victim = rng.randrange(size)
    children = [fork(config, run, seed if rank == victim else None, rank, size, log) for rank in range(size)]
    _, status = os.waitpid(children[victim], 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if killed:
        time.sleep(rng.random() * 0.03)
    for rank, child in enumerate(children):
        if rank == victim:
            continue
        if killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _, other = os.waitpid(child, 0)
        status = status if killed else status or other
    if not killed and status != 0:
        sys.exit(f"a life ended with status {status}")
    return killed


def main(data: str, run: str, seed: int, kills: int, copies: str = "") -> None:
    """Kill ``kills`` times, then let the run finish; one JSON line a life."""
    overrides = (*PAIR, f"checkpoint.copy_to={copies}") if copies else OVERRIDES
    config, size, log = small_config(Path(data), *overrides), 2 if copies else 1, Path(f"{run}.published")
    os.environ["PYJPLLM_JOB_DIR"] = str(Path(run).parent)
    if copies:
        whole = small_config(Path(data), *PAIR)
        assert not run_once(whole, Path(f"{run}-whole"), None, size, log.with_suffix(".whole"))
    done = 0
    while run_once(config, Path(run), seed * 1000 + done if done < kills else None, size, log):
        done += 1
        if copies:
            print(json.dumps({"kill": done, "whole": check_whole(Path(run), Path(copies), log)}), flush=True)
    print(json.dumps({"kills": done}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
