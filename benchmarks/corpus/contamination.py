"""Decontamination on real text: planted variants of evaluation items, and false alarms.

    python -m benchmarks.corpus.contamination TEXT... [--items 500] [--write docs/corpus-dedup.md]

TEXT: documents, as `jpllm corpus` reads them (such as the packages' of scripts/quickstart). One in ten is held out by
its text's hash. Items: lines of the held-out documents of which no 15 characters stand in any other document (manuals
repeat themselves), and questions made of a small grammar. Each item is planted in a document, once as it is and once in
every variant: found or missed. Then every document without anything planted is searched for all items: whatever is
found there is a false alarm.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash

from benchmarks.corpus.pages import sentence
from benchmarks.planted import VARIANTS, Planter
from benchmarks.ranks import write_between
from pyjpllm import _text
from pyjpllm.corpus import read_documents
from pyjpllm.corpus.decontamination import DecontaminationConfig, Detector, Item
from pyjpllm.corpus.folding import fold

SHORTEST, LONGEST = 30, 300
SHARED = 15  # characters that tell that a line stands elsewhere


def split(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """(searched, held out)."""
    searched: list[str] = []
    held: list[str] = []
    for document in read_documents(inputs):
        (searched, held)[xxhash.xxh3_64_intdigest(document.text.encode()) % 10 == 0].append(document.text)
    return searched, held


def lines_of(held: Sequence[str], searched: Sequence[str], count: int, dice: random.Random) -> tuple[list[str], int]:
    """(a line of each of some held-out documents that stands nowhere else, how many do)."""
    known = np.unique(_text.gram_hashes([fold(text, "letters") for text in searched], SHARED)[0])
    found: dict[str, None] = {}
    elsewhere = 0
    for text in dice.sample(held, len(held)):
        lines = [line for line in text.splitlines() if SHORTEST <= len(fold(line, "letters")) <= LONGEST]
        if lines and len(found) < count:
            line = dice.choice(lines)
            own, _ = _text.gram_hashes([fold(line, "letters")], SHARED)
            if (known[np.searchsorted(known[:-1], own)] == own).any():
                elsewhere += 1
            else:
                found[line] = None
    return list(found), elsewhere


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
    lines, elsewhere = lines_of(held, searched, options.items, dice)
    sources = {"held-out": lines, "generated": questions(options.items, dice)}
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
    alarms = [match for matches in found for match in matches]
    for match in alarms[: options.show]:
        print(f"FALSE {match.by} {match.share:.2f} {match.item.task}\n  {match.item.folded}")
    false = sum(map(bool, found))
    characters = sum(map(len, searched))
    lines = [
        f"{len(searched):,} documents, {characters / 1e6:.1f} M characters. Items: {len(sources['held-out']):,} lines "
        f"of the {len(held):,} documents held out ({elsewhere:,} that stand elsewhere as well were passed over), and "
        f"{len(sources['generated']):,} made-up questions.",
        "",
        "| variant | planted | found |",
        "|---|---|---|",
        *rows,
        "",
        f"False alarms: {false:,} of the documents, {false / len(searched):.3%}. "
        f"{len(searched) / seconds:,.0f} documents/s of CPU time.",
    ]
    print("\n".join(lines))
    if options.write is not None:
        write_between(options.write, "contamination", "\n".join(lines))


if __name__ == "__main__":
    main()
