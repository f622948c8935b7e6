"""`python -m tests.corpus._build INPUTS RUN`: the pipeline of the tests, as a process or as a rank."""

from __future__ import annotations

import sys
from pathlib import Path

from pyjpllm.cli.exchange import exchange
from pyjpllm.corpus.build import build_corpus
from tests.corpus import pipelines


def main() -> None:
    """Run it with a shard a file."""
    paths, run = sys.argv[1:]
    config = pipelines.pipeline(Path(paths), dropped=True)
    with exchange() as ranks:
        build_corpus(config, run, exchange=ranks)


if __name__ == "__main__":
    main()
