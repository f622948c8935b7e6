"""One rank of ``tests.mpi.run_ranks``: start torch.distributed, call functions, leave their results as files.

``python -m tests._mpi_worker BACKEND FOLDER``: takes paths of tasks from the pipe ``to-RANK`` in FOLDER, a line each,
to the end of the pipe, and answers each on the pipe ``from`` with a line ``RANK ok`` or ``RANK failed``. After a
failure it ends, and with it the job.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    import torch

    import pyjpllm.distributed as pd

    torch.set_num_threads(1)
    backend, folder = sys.argv[1], Path(sys.argv[2])
    world = pd.init(backend)
    if world.rank:
        _stop_coverage()
    answers = os.open(folder / "from", os.O_WRONLY)
    with open(folder / f"to-{world.rank}", encoding="utf-8") as tasks:
        for line in tasks:
            ok = _carry_out(Path(line.rstrip("\n")), world)
            os.write(answers, f"{world.rank} {'ok' if ok else 'failed'}\n".encode())
            if not ok:
                sys.exit(1)
    pd.finalize()


def _carry_out(task: Path, world: Any) -> bool:
    try:
        module, qualname, args, kwargs = pickle.loads(task.read_bytes())
        fn = importlib.import_module(module)
        for name in qualname.split("."):
            fn = getattr(fn, name)
        result = fn(world, *args, **kwargs)
        (task.parent / f"result-{world.rank:04d}.pkl").write_bytes(pickle.dumps(result))
    except BaseException:
        error = task.parent / f"error-{world.rank:04d}.txt"
        error.write_text(f"rank {world.rank}:\n{traceback.format_exc()}")
        traceback.print_exc()
        return False
    return True


def _stop_coverage() -> None:
    """Ranks run the same lines but for a few, and to follow them takes as long as to run them: one rank is enough."""
    coverage = sys.modules.get("coverage")
    current = None if coverage is None else coverage.Coverage.current()
    if current is not None:
        current.stop()


if __name__ == "__main__":
    main()
