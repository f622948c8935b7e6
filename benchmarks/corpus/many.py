"""Ten million short documents through `jpllm corpus build` with dedup-exact and dedup-minhash, on ranks of one machine.

    python -m benchmarks.corpus.many [--documents 10000000] [--characters 60] [--ranks 2] [--write docs/corpus-dedup.md]

The documents are drawn, with shards of JSON Lines on disk (in --folder, by default a temporary one; 2 GB for ten
million and as much for the run). One in twenty is an exact copy of another, one in twenty a copy with one character
replaced. Said of each rank: the most memory it had (VmHWM of its process), and what the formula in
docs/corpus-dedup.md adds to what it had when it began.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ranks import on_ranks, write_between
from pyjpllm.cli.exchange import exchange
from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import CorpusConfig, InputConfig, RunConfig
from pyjpllm.corpus.dedup import collision_probability
from pyjpllm.corpus.dedup.matching import memory_formula
from pyjpllm.corpus.dedup.settings import CopiesConfig, NearCopiesConfig

BLOCK = 50_000
SHARE = 20  # one in so many is an exact copy, as many are near copies
BANDS, ROWS, GRAM = 14, 8, 5
# Kana and 2,000 kanji, each three bytes of UTF-8.
_LETTERS = [*range(0x3041, 0x3091), *range(0x30A1, 0x30F1), *range(0x4E00, 0x55D0)]
_ALPHABET = np.frombuffer("".join(map(chr, _LETTERS)).encode(), np.uint8).reshape(-1, 3)


def block(documents: int, characters: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Lines of JSON [documents, bytes]; the copies stand behind what they are copies of, in the same block."""
    letters = random.integers(len(_ALPHABET), size=(documents, characters), dtype=np.uint16)
    copies = documents // SHARE
    letters[-copies:] = letters[:copies]  # exact
    near = letters[copies : 2 * copies].copy()
    at = np.arange(copies), random.integers(GRAM, characters - GRAM, size=copies)
    near[at] = (near[at] + random.integers(1, len(_ALPHABET), size=copies)) % len(_ALPHABET)
    letters[-2 * copies : -copies] = near
    text = _ALPHABET[letters].reshape(documents, -1)
    head, tail = (np.frombuffer(part, np.uint8) for part in (b'{"text": "', b'"}\n'))
    return np.concatenate([np.tile(head, (documents, 1)), text, np.tile(tail, (documents, 1))], axis=1)


def make(folder: Path, documents: int, characters: int) -> int:
    """Shards of a million documents each; returns how many documents there are."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    made = 0
    for number in range(-(-documents // 1_000_000)):
        with open(folder / f"{number:05d}.jsonl", "wb") as file:
            end = min(documents, (number + 1) * 1_000_000)
            while made < end:
                size = min(BLOCK, end - made)
                block(size, characters, random).tofile(file)
                made += size
    return made


def config_of(folder: Path) -> CorpusConfig:
    """What `jpllm corpus build` would read from TOML."""
    stages = (CopiesConfig(kind="dedup-exact"), NearCopiesConfig(kind="dedup-minhash", n=GRAM, bands=BANDS, rows=ROWS))
    return CorpusConfig(input=InputConfig(paths=[str(folder / "in")]), run=RunConfig(), stages=stages)


def run(folder: Path, out: Path) -> None:
    """A rank: the pipeline, and what it took; rank 0 writes it."""
    with exchange() as ranks:
        began = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_SELF)
        report = build_corpus(config_of(folder), folder / "run", exchange=ranks)
        after = resource.getrusage(resource.RUSAGE_SELF)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        memory = {"before": before.ru_maxrss << 10, "most": after.ru_maxrss << 10, "cpu": spent}
        found = {"ranks": ranks.all_gather(memory), "wall": time.monotonic() - began, "report": report}
        if ranks.rank == 0:
            out.write_text(json.dumps(found))


def expected(documents: int, characters: int) -> tuple[int, float]:
    """Exact copies; and how many near ones MinHash should find: one edit, away from the ends, breaks GRAM grams."""
    blocks = [BLOCK] * (documents // BLOCK) + [documents % BLOCK] * (documents % BLOCK > 0)
    copies = sum(size // SHARE for size in blocks)
    grams = characters - GRAM + 1
    return copies, copies * collision_probability((grams - GRAM) / (grams + GRAM), BANDS, ROWS)


def table(found: dict[str, Any], documents: int, characters: int, making: float) -> str:
    """What came out, as Markdown."""
    report = found["report"]
    exact, near = (stage["dropped"] for stage in report["stages"])
    copies, likely = expected(documents, characters)
    cpu = sum(rank["cpu"] for rank in found["ranks"])
    gib = 1 << 30
    size = len(found["ranks"])
    formula = memory_formula(documents // size, (copies + round(likely)) // size)
    lines = [
        f"{documents:,} documents of {characters} characters on {size} ranks:",
        "",
        "| | |",
        "|---|---|",
        f"| exact copies: planted, dropped | {copies:,}, {exact['copy']['documents']:,} |",
        f"| near copies: planted, expected by the formula, dropped | {copies:,}, {likely:,.0f}, "
        f"{near['near-copy']['documents']:,} |",
        *(
            f"| rank {number}: before, most memory (formula: before + {formula / gib:.2f}) "
            f"| {rank['before'] / gib:.2f}, {rank['most'] / gib:.2f} GiB |"
            for number, rank in enumerate(found["ranks"])
        ),
        f"| CPU time: pipeline, making the documents | {cpu:,.0f} s, {making:,.0f} s |",
        f"| documents a second of CPU time | {documents / cpu:,.0f} |",
        f"| wall time of the pipeline | {found['wall']:,.0f} s |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Make the documents, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--characters", type=int, default=60)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="an empty or new folder; what is in it stays")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    parser.add_argument("--rank-out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_out is not None:
        run(options.folder, options.rank_out)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        began = time.process_time()
        documents = make(folder / "in", options.documents, options.characters)
        making = time.process_time() - began
        found = on_ranks("benchmarks.corpus.many", options.ranks, "--folder", str(folder))
    text = table(found, documents, options.characters, making)
    print(text)
    if options.write is not None:
        write_between(options.write, "many documents", text)


if __name__ == "__main__":
    main()
