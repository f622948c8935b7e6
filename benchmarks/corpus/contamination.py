"""Decontamination on real text: planted variants of evaluation items, and false alarms.

    python -m benchmarks.corpus.contamination TEXT... [--items 500] [--write docs/corpus-dedup.md]

TEXT: documents, as `jpllm corpus` reads them (such as the packages' of scripts/quickstart). One in ten is held out by
its text's hash. Items: lines of the held-out documents, and questions made of a small grammar; none of them was written
for another document. Each item is planted in a document, once as it is and once in every variant: found or missed.
Then every document without anything planted is searched for all items. An item that is reported there is a false alarm
unless a stretch of the document is within a fifth of the item's characters of it: such a line stands there indeed,
since manuals repeat themselves.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import xxhash

from benchmarks.corpus.pages import sentence
from benchmarks.planted import VARIANTS, Planter
from benchmarks.ranks import write_between
from pyjpllm.corpus import read_documents
from pyjpllm.corpus.decontamination import DecontaminationConfig, Detector, Item, Match
from pyjpllm.corpus.edit_distance import least_edits
from pyjpllm.corpus.folding import fold

SHORTEST, LONGEST = 30, 300


def split(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """(searched, held out)."""
    searched: list[str] = []
    held: list[str] = []
    for document in read_documents(inputs):
        (searched, held)[xxhash.xxh3_64_intdigest(document.text.encode()) % 10 == 0].append(document.text)
    return searched, held


def lines_of(held: Sequence[str], count: int, dice: random.Random) -> list[str]:
    """A line of each of some held-out documents."""
    found = []
    for text in dice.sample(held, len(held)):
        lines = [line for line in text.splitlines() if SHORTEST <= len(fold(line, "letters")) <= LONGEST]
        if lines:
            found.append(dice.choice(lines))
    return list(dict.fromkeys(found))[:count]


def questions(count: int, dice: random.Random) -> list[str]:
    """Made-up items."""
    found: dict[str, None] = {}
    while len(found) < count:
        text = f"問: {sentence(dice)}{sentence(dice)}これは正しいですか?"
        if len(fold(text, "letters")) >= SHORTEST:
            found[text] = None
    return list(found)


def detector_of(items: Sequence[Item]) -> Detector:
    """With the default settings."""
    default = DecontaminationConfig(kind="decontaminate", paths=["-"])
    return Detector(items, default.share, default.similarity, default.min_characters, default.max_items, default.edits)


def planted(detector: Detector, items: Sequence[tuple[str, Item]], searched: Sequence[str]) -> list[str]:
    """A line of Markdown a variant."""
    planter = Planter(1)
    rows = []
    for name, change in VARIANTS.items():
        texts = []
        for source, _ in items:
            around = searched[int(planter.random.integers(len(searched)))]
            at = int(planter.random.integers(len(around) + 1))
            texts.append(around[:at] + change(source, planter) + around[at:])
        found = detector.find(texts)
        hits = sum(item in {match.item for match in matches} for (_, item), matches in zip(items, found, strict=True))
        rows.append(f"| {name} | {len(items):,} | {hits:,} |")
    return rows


def stands_there(match: Match, folded: str) -> bool:
    """Whether something within a fifth of the item is in the document."""
    return least_edits(match.item.folded, folded) <= 0.2 * len(match.item.folded)


def main() -> None:
    """Print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+")
    parser.add_argument("--items", type=int, default=500, help="of each kind, at most")
    parser.add_argument("--show", type=int, default=0, help="false alarms to print")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the marks of this page")
    options = parser.parse_args()
    dice = random.Random(1)
    searched, held = split(options.text)
    sources = {"held-out": lines_of(held, options.items, dice), "generated": questions(options.items, dice)}
    items = [
        (text, Item(task, number, fold(text, "letters")))
        for task, texts in sources.items()
        for number, text in enumerate(texts)
    ]
    detector = detector_of([item for _, item in items])
    rows = planted(detector, items, searched)
    began = time.process_time()
    found = [
        matches for start in range(0, len(searched), 256) for matches in detector.find(searched[start : start + 256])
    ]
    seconds = time.process_time() - began
    real = false = 0
    for text, matches in zip(searched, found, strict=True):
        if not matches:
            continue
        folded = fold(text, "letters")
        wrong = [match for match in matches if not stands_there(match, folded)]
        real += len(wrong) < len(matches)
        false += bool(wrong)
        for match in wrong[: max(0, options.show)]:
            print(f"FALSE {match.by} {match.share:.2f} {match.item.task}\n  {match.item.folded}")
            options.show -= 1
    characters = sum(map(len, searched))
    lines = [
        f"{len(searched):,} documents, {characters / 1e6:.1f} M characters; {len(sources['held-out']):,} lines of "
        f"{len(held):,} documents held out and {len(sources['generated']):,} made-up questions as items.",
        "",
        "| variant | planted | found |",
        "|---|---|---|",
        *rows,
        "",
        f"Of the documents without anything planted, {real:,} hold a held-out line (within a fifth of its characters) "
        f"and were found; false alarms: {false:,} documents, {false / len(searched):.4%}. "
        f"{len(searched) / seconds:,.0f} documents/s of CPU time.",
    ]
    print("\n".join(lines))
    if options.write is not None:
        write_between(options.write, "contamination", "\n".join(lines))


if __name__ == "__main__":
    main()
