"""`python -m tests.corpus._build INPUTS RUN PROCESSES SLOW_S`: the pipeline of the tests, as a process or as a rank."""

from __future__ import annotations

import sys
from pathlib import Path

from pyjpllm.cli.exchange import exchange
from pyjpllm.corpus.build import build_corpus
from tests.corpus import pipelines


def main() -> None:
    """Run it with a shard a file."""
    paths, run, processes, slow_s = sys.argv[1:]
    config = pipelines.pipeline(Path(paths), processes=int(processes), dropped=True, slow_s=float(slow_s))
    with exchange() as ranks:
        build_corpus(config, run, exchange=ranks)


if __name__ == "__main__":
    main()
