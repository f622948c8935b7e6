"""Peak memory of one side's step in a process of its own: ``python -m pyjpllm.bench.memory SIDE WORK``."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from pyjpllm.bench.probe import pin, resident_bytes
from pyjpllm.bench.sides import Work, make_side
from pyjpllm.config.schema import ModelConfig

STEPS = 2
"""The optimizer's state is made in the first."""


def pack(work: Work) -> str:
    """``work`` as an argument of a process."""
    return json.dumps(asdict(work) | {"model": work.model.model_dump()})


def unpack(text: str) -> Work:
    """The other way."""
    fields: dict[str, Any] = json.loads(text)
    return Work(**fields | {"model": ModelConfig.model_validate(fields["model"])})


def peak_bytes(side: str, work: Work, core: int) -> int:
    """The most memory that building ``side`` and two steps of it take beyond the imported libraries."""
    command = [sys.executable, "-m", "pyjpllm.bench.memory", side, pack(work), str(core)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:4])} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return int(done.stdout.splitlines()[-1])


def main(side: str, work: str, core: str) -> None:
    """Print the bytes."""
    pin(int(core))
    wanted = unpack(work)
    # A little step first: libraries load their parts when they are used, and these are no memory of the step.
    little = wanted.model.model_copy(update={"num_layers": 1, "vocab_size": 64, "intermediate_size": 16})
    make_side(side, Work(little, 1, 8, wanted.dtype)).step()
    gc.collect()
    before, _ = resident_bytes()
    subject = make_side(side, wanted)
    for _ in range(STEPS):
        subject.step()
    _, most = resident_bytes()
    print(most - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
