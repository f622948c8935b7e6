"""Recall and precision of deduplication on planted copies, and its memory on many short documents.

    python -m benchmarks.corpus_recall curve [--pairs 20000] [--characters 400] [--bands 14 --rows 8] [--n 5]
    [mpirun -n N] python -m benchmarks.corpus_recall memory [--documents 1000000] [--characters 60]

`curve` plants pairs of every similarity, runs the whole step over shards on disk, and sets what it drops beside the LSH
formula, by similarity. `memory` writes short documents, of which one in ten is a near copy, into shards (the ranks
share the work), runs the step, and prints each rank's largest resident memory beside the formula of
pyjpllm/corpus/dedup/matching.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.planted import Planter, jaccard
from pyjpllm.cli.exchange import exchange
from pyjpllm.corpus.dedup import MinHasher, NearCopiesStep, collision_probability
from pyjpllm.corpus.dedup.keyfiles import ROUND_RECORDS
from pyjpllm.corpus.exchange import Alone, Exchange

MIB = 1 << 20


def write_shard(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    return path


def curve(pairs: int, characters: int, hasher: MinHasher) -> None:
    """A table: similarity, pairs, found, formula."""
    planter = Planter(1)
    texts = [planter.text(characters) for _ in range(pairs)]
    copies = [
        planter.edited(text, share) for text, share in zip(texts, planter.random.uniform(0, 0.2, pairs), strict=True)
    ]
    similarity = np.array([jaccard(text, copy, hasher.n) for text, copy in zip(texts, copies, strict=True)])
    expected = np.array([collision_probability(s, hasher.bands, hasher.rows) for s in similarity])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = [write_shard(folder / "a.jsonl", texts), write_shard(folder / "b.jsonl", copies)]
        step = NearCopiesStep("near", folding="none", keep="earliest", hasher=hasher)
        decisions = step(shards, Alone(), folder / "work")
    found = np.zeros(pairs, bool)
    found[[decision.document for decision in decisions.get(1, [])]] = True
    wrong = len(decisions.get(0, []))
    print(f"{pairs} pairs, {hasher.bands} bands x {hasher.rows} rows, {hasher.n}-grams")
    print(f"{'similarity':<14}{'pairs':>8}{'found':>9}{'formula':>9}{'apart':>9}")
    edges = np.linspace(0, 1, 11)
    for low, high in [*zip(edges, edges[1:], strict=False), (0, 1)]:  # noqa: RUF007
        part = (similarity >= low) & ((similarity < high) | (high == 1))
        if part.sum() >= 100:
            got, formula = found[part].mean(), expected[part].mean()
            print(f"{low:.1f} to {high:.1f}    {part.sum():>8}{got:>9.4f}{formula:>9.4f}{got - formula:>+9.4f}")
    print(f"documents dropped that have no copy: {wrong}")


def memory(documents: int, characters: int, hasher: MinHasher, ranks: Exchange) -> None:
    """A line a rank: largest resident memory before and after the step, and the formula."""
    shards_of_rank = max(1, documents // ranks.size // 100_000)
    count = shards_of_rank * ranks.size
    size = documents // count
    name = tempfile.mkdtemp(prefix="corpus-recall-") if ranks.rank == 0 else ""
    folder = Path(ranks.broadcast(name))
    shards = [folder / f"shard-{number:05d}.jsonl" for number in range(count)]
    for number in range(ranks.rank, count, ranks.size):
        planter = Planter(number)
        texts = [planter.text(characters) for _ in range(size - size // 10)]
        write_shard(shards[number], texts + [planter.edited(text, 0.02) for text in texts[: size // 10]])
    ranks.barrier()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started, cpu = time.perf_counter(), time.process_time()
    step = NearCopiesStep("near", folding="none", keep="earliest", hasher=hasher)
    decisions = step(shards, ranks, folder / "work")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    own = shards_of_rank * size
    dropped = sum(map(len, decisions.values()))
    formula = (24 * own + 96 * min(own, ROUND_RECORDS) + 48 * 2 * dropped + 200 * dropped) / MIB
    for line in ranks.all_gather(
        f"rank {ranks.rank}: {own} documents, {dropped} dropped, {seconds:.0f} s ({cpu:.0f} s of CPU time); "
        f"{before:.0f} MiB before, {after:.0f} MiB at most; formula {formula:.0f} MiB more"
    ):
        if ranks.rank == 0:
            print(line)
    ranks.barrier()
    if ranks.rank == 0:
        for path in shards:
            path.unlink()
        for path in (folder / "work").rglob("*.u64"):
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["curve", "memory"])
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--characters", type=int)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--bands", type=int, default=14)
    parser.add_argument("--rows", type=int, default=8)
    options = parser.parse_args()
    hasher = MinHasher(options.n, options.bands, options.rows)
    if options.what == "curve":
        curve(options.pairs, options.characters or 400, hasher)
        return
    with exchange() as ranks:
        memory(options.documents, options.characters or 60, hasher, ranks)


if __name__ == "__main__":
    main()
