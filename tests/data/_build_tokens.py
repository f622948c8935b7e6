"""`python -m tests.data._build_tokens INPUTS RUN TOKENIZER`: a rank of a pipeline into tokens."""

from __future__ import annotations

import sys
from pathlib import Path

from pyjpllm.cli.exchange import exchange
from pyjpllm.corpus.build import build_corpus
from pyjpllm.data import TokenOutput
from tests.corpus import pipelines


def main() -> None:
    """Run it with a shard a file."""
    paths, run, tokenizer = sys.argv[1:]
    config = pipelines.pipeline(Path(paths), format="tokens", tokenizer=tokenizer, dropped=True)
    with exchange() as ranks:
        build_corpus(config, run, tokens=TokenOutput.load(tokenizer), exchange=ranks)


if __name__ == "__main__":
    main()
