"""One rank of ``tests.mpi.run_ranks``: start torch.distributed, call the function, leave the result as a file."""

from __future__ import annotations

import importlib
import pickle
import sys
import traceback
from pathlib import Path


def main() -> None:
    import torch

    import pyjpllm.distributed as pd

    torch.set_num_threads(1)
    task = Path(sys.argv[1])
    module, qualname, backend, args, kwargs = pickle.loads(task.read_bytes())
    world = pd.init(backend)
    try:
        fn = importlib.import_module(module)
        for name in qualname.split("."):
            fn = getattr(fn, name)
        result = fn(world, *args, **kwargs)
        (task.parent / f"result-{world.rank:04d}.pkl").write_bytes(pickle.dumps(result))
    except BaseException:
        error = task.parent / f"error-{world.rank:04d}.txt"
        error.write_text(f"rank {world.rank}:\n{traceback.format_exc()}")
        raise
    pd.finalize()


if __name__ == "__main__":
    main()
