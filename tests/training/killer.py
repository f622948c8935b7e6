"""Trains in children that are killed with SIGKILL at random moments, and reports where each was.

    python -m tests.training.killer DATA RUN SEED KILLS

Half of the moments are a random delay after the start of a random step, half are a random call inside a save. The
parent imports everything once and forks, so that a life of the run costs a fraction of a second.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyjpllm.training import checkpoint, trainer
from pyjpllm.training.manifest import Manifest
from tests.training.small import small_config

OVERRIDES = ("train.steps=90", "checkpoint.interval=1", "train.micro_batch=4", "data.valid=[]")


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


def after_some_bytes(calls: int) -> None:
    """Die in the ``calls``-th save with half a file on the disk."""
    original, left = checkpoint.save_file, [calls]

    def dying(tensors: Any, path: Path) -> None:
        original(tensors, path)
        left[0] -= 1
        if left[0] == 0:
            os.truncate(path, path.stat().st_size // 2)
            die()

    checkpoint.save_file = dying  # type: ignore[assignment]


def arm(rng: random.Random) -> str:
    """Choose the moment of death and prepare it; what was chosen, in words."""
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
        "with half a file written": lambda: after_some_bytes(calls),
        "before a file's fsync": lambda: before(checkpoint, "fsync_file", calls),
        "before the manifest": lambda: before(Manifest, "write", calls),
        "before the rename": lambda: before(checkpoint.os, "rename", calls),
        "after the rename": lambda: before(checkpoint, "sweep", calls),
        "while old checkpoints are removed": lambda: before(checkpoint.shutil, "rmtree", calls + 1),
    }
    name = rng.choice(sorted(points))
    points[name]()
    return f"{name}, call {calls} of this life"


def main(data: str, run: str, seed: int, kills: int) -> None:
    """Kill ``kills`` times, then let the run finish; one JSON line a life."""
    config = small_config(Path(data), *OVERRIDES)
    done = 0
    while True:
        rng = random.Random(seed * 1000 + done)
        child = os.fork()
        if child == 0:
            if done < kills:
                moment = arm(rng)
                print(json.dumps({"kill": done + 1, "moment": moment}), flush=True)
            result = trainer.train(config, Path(run))
            print(json.dumps({"finished": result.finished, "step": result.step}), flush=True)
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            done += 1
        elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            print(json.dumps({"kills": done}), flush=True)
            return
        else:
            sys.exit(f"a life ended with status {status}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
