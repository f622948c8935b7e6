"""MinHash beside rensa and datasketch, in one run: documents a second of CPU time on one pinned core.

    python -m benchmarks.corpus_dedup [TEXT...] [--functions 800] [--n 5] [--documents 400] [--repeat 5] [--write PAGE]

Without TEXT (anything `read_documents` takes) the documents are drawn. Install the peers with `pip install rensa
datasketch`; one that is missing is named and left out. Each library gets the texts as Python strings and ends with one
signature a document: the cutting into grams is part of the work. The rounds take turns, and the best of each counts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks.planted import Planter
from benchmarks.ranks import write_between
from pyjpllm import _text
from pyjpllm.corpus import read_documents
from pyjpllm.corpus.dedup import MinHasher

Work = Callable[[list[str]], object]


def ways(functions: int, n: int) -> dict[str, Work]:
    """Name -> what makes the signatures."""
    hasher = MinHasher(n, functions, 1)
    found: dict[str, Work] = {
        f"pyjpllm ({_text.minhash_isas()[0]})": hasher.signatures,
        "pyjpllm, with band keys": lambda texts: hasher.keys(hasher.signatures(texts)),
    }
    try:
        import rensa
    except ImportError:
        print("rensa is not installed: left out")
    else:

        def with_rensa(texts: list[str]) -> object:
            signatures = []
            for text in texts:
                sketch = rensa.RMinHash(num_perm=functions, seed=1)
                sketch.update([text[i : i + n] for i in range(len(text) - n + 1)])
                signatures.append(sketch.digest())
            return signatures

        found[f"rensa {version('rensa')}, RMinHash"] = with_rensa
    try:
        import datasketch
    except ImportError:
        print("datasketch is not installed: left out")
    else:

        def with_datasketch(texts: list[str]) -> object:
            signatures = []
            for text in texts:
                sketch = datasketch.MinHash(num_perm=functions, seed=1)
                sketch.update_batch([text[i : i + n].encode() for i in range(len(text) - n + 1)])
                signatures.append(sketch.digest())
            return signatures

        found[f"datasketch {version('datasketch')}, update_batch"] = with_datasketch
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="*")
    parser.add_argument("--functions", type=int, default=800)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    options = parser.parse_args()

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if options.text:
        texts = [document.text for _, document in zip(range(options.documents), read_documents(options.text))]  # noqa: B905
    else:
        planter = Planter(1)
        texts = [planter.text(int(size)) for size in planter.random.integers(200, 4000, options.documents)]
    characters = sum(map(len, texts))
    best: dict[str, float] = {}
    for _ in range(options.repeat):
        for name, work in ways(options.functions, options.n).items():
            started = time.process_time()
            work(texts)
            best[name] = min(best.get(name, float("inf")), time.process_time() - started)
    ours = next(iter(best.values()))
    rows = [
        f"| {name} | {len(texts) / seconds:,.0f} | {characters / seconds / 1e6:.2f} | {seconds / ours:.2f} |"
        for name, seconds in best.items()
    ]
    text = (
        f"{len(texts)} documents of {characters / len(texts):,.0f} characters each, {options.functions} functions "
        f"over character {options.n}-grams:\n\n"
        "| | documents/s | million characters/s | times our time |\n|---|---|---|---|\n" + "\n".join(rows)
    )
    print(text)
    if options.write is not None:
        write_between(options.write, "corpus-minhash", text)


if __name__ == "__main__":
    main()
