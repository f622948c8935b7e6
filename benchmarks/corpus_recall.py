"""Recall and precision of deduplication on planted copies of four kinds, beside the LSH formula.

    python -m benchmarks.corpus_recall [--pairs 100000] [--characters 150] [--write docs/corpus-dedup.md]

Near copies: texts and edited copies of them, of every similarity alike often, as shards on disk through the real step;
the share that is found, by true Jaccard similarity of the gram sets, beside the mean of 1 - (1 - s^rows)^bands over the
same pairs, for the bands and rows of FineWeb2, Swallow and llm-jp. From the same pairs, the recall of those of at least
a similarity and the precision of what is found, and the formula's. Strangers: documents that begin alike, ten of each
beginning, of which all pairs are compared. Exact copies, paragraphs and passages: planted, found, and what was touched
besides.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus.pages import paragraphs
from benchmarks.planted import Planter, jaccard
from benchmarks.ranks import write_between
from pyjpllm import _text
from pyjpllm.corpus import Document, DocumentWriter
from pyjpllm.corpus.dedup import (
    CopiesStep,
    MinHasher,
    NearCopiesStep,
    RepeatedSubstringsStep,
    RepeatedUnitsStep,
    collision_probability,
)
from pyjpllm.corpus.exchange import Alone
from pyjpllm.corpus.stage import Decision, GlobalStep

GRAM = 5
SETTINGS = {"FineWeb2": (14, 8), "Swallow": (40, 20), "llm-jp v4": (20, 10)}
THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9)
EDGES = np.linspace(0, 1, 11)
Floats = NDArray[np.float64]


def run(step: GlobalStep, *shards: Sequence[str]) -> dict[int, list[Decision]]:
    """What a step decides about shards of texts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{number:05d}.jsonl" for number in range(len(shards))]
        for path, texts in zip(paths, shards, strict=True):
            with DocumentWriter(path) as writer:
                for text in texts:
                    writer.add(Document(text))
        return step(paths, Alone(), folder / "work")


class Pairs:
    """Planted pairs and their true similarities, spread evenly from 0 to 1."""

    def __init__(self, count: int, characters: int) -> None:
        planter = Planter(1)
        wanted = planter.random.uniform(0, 1, count)
        # Of grams that are kept with probability g a pair has similarity g / (2 - g); an edit breaks GRAM of them.
        edits = 1 - (2 * wanted / (1 + wanted)) ** (1 / GRAM)
        self.texts = [planter.text(characters) for _ in range(count)]
        self.copies = [planter.edited(text, share) for text, share in zip(self.texts, edits, strict=True)]
        pairs = zip(self.texts, self.copies, strict=True)
        self.similarity = np.array([jaccard(text, copy, GRAM) for text, copy in pairs])

    def found(self, step: NearCopiesStep) -> tuple[NDArray[np.bool_], int]:
        """Which copies the step drops; and how many texts, of which none is a copy."""
        decisions = run(step, self.texts, self.copies)
        found = np.zeros(len(self.texts), bool)
        found[[decision.document for decision in decisions.get(1, [])]] = True
        return found, len(decisions.get(0, []))


def formula(similarity: Floats, bands: int, rows: int) -> Floats:
    """The probability that each pair is found."""
    return np.array([collision_probability(s, bands, rows) for s in similarity])


def curves(pairs: Pairs) -> tuple[list[str], float]:
    """The tables of near copies, and the largest distance from the formula in them."""
    similarity = pairs.similarity
    worst, wrong = 0.0, 0
    by_bin, above = [], []
    bins = [(low, np.minimum(9, np.floor(10 * similarity)) == number) for number, low in enumerate(EDGES[:-1])]
    results = {}
    for name, (bands, rows) in SETTINGS.items():
        found, touched = pairs.found(NearCopiesStep(name, "none", "earliest", hasher=MinHasher(GRAM, bands, rows)))
        results[name] = found, formula(similarity, bands, rows)
        wrong += touched
    names = " | ".join(f"{name} {bands} x {rows}" for name, (bands, rows) in SETTINGS.items())
    for low, part in bins:
        cells = [(found[part].mean(), likely[part].mean()) for found, likely in results.values()]
        worst = max(worst, *(abs(got - said) for got, said in cells))
        shown = " | ".join(f"{got:.4f} / {said:.4f}" for got, said in cells)
        by_bin.append(f"| {low:.1f} to {low + 0.1:.1f} | {part.sum():,} | {shown} |")
    for threshold in THRESHOLDS:
        part = similarity >= threshold
        row = []
        for found, likely in results.values():
            recall, said = found[part].mean(), likely[part].mean()
            precision, expected = (found & part).sum() / found.sum(), likely[part].sum() / likely.sum()
            worst = max(worst, abs(recall - said), abs(precision - expected))
            row.append(f"{recall:.4f} / {said:.4f}, {precision:.4f} / {expected:.4f}")
        above.append(f"| {threshold:.1f} | {' | '.join(row)} |")
    rule = "|---" * len(SETTINGS) + "|"
    return [
        f"{len(similarity):,} pairs of {len(pairs.texts[0])} characters, {GRAM}-grams. Found / formula, by similarity:",
        "",
        f"| similarity | pairs | {names} |",
        f"|---|---{rule}",
        *by_bin,
        "",
        "Recall of the pairs of at least a similarity, found / formula, and precision, the share of those among all "
        "that was found:",
        "",
        f"| at least | {names} |",
        f"|---{rule}",
        *above,
        "",
        f"The largest distance from the formula in both tables: {worst:.4f}. Texts dropped that have no copy: {wrong}.",
    ], worst


def strangers(documents: int) -> list[str]:
    """Families of ten documents with the same beginning, none a copy: pairs that meet, beside the formula's number."""
    dice = random.Random(3)
    planter = Planter(3)
    starts = [planter.text(90) for _ in range(-(-documents // 10))]
    texts = [starts[number // 10] + "".join(paragraphs(dice, 2))[:60] for number in range(documents)]
    hashes, ends = _text.gram_hashes(texts, GRAM)
    kinds, grams = np.unique(hashes, return_inverse=True)
    has = np.zeros((documents, len(kinds)), np.float32)
    has[np.repeat(np.arange(documents), np.diff(ends, prepend=0)), grams] = 1
    both = has @ has.T
    sizes = has.sum(axis=1)
    upper = np.triu_indices(documents, 1)
    similarity = (both / (sizes[:, None] + sizes[None, :] - both))[upper].astype(np.float64)
    lines = []
    for name, (bands, rows) in SETTINGS.items():
        hasher = MinHasher(GRAM, bands, rows)
        signatures = hasher.signatures(texts)
        keys = hasher.keys(signatures)
        meet = np.zeros((documents, documents), bool)
        for column in range(bands):
            meet |= keys[:, None, column] == keys[None, :, column]
        found = meet[upper]
        agree = np.array([(signatures[i] == signatures[j]).mean() for i, j in zip(*upper, strict=True) if meet[i, j]])
        expected = (1 - (1 - similarity**rows) ** bands).sum()
        lines.append(
            f"| {name} {bands} x {rows} | {found.sum():,} / {expected:,.1f} "
            f"| {(found & (similarity < 0.7)).sum():,} | {(agree >= 0.7).sum():,} |"
        )
    return [
        f"{documents:,} documents, of which ten at a time begin with the same 90 characters and go on with 60 of their "
        f"own: {(similarity > 0.3).sum():,} pairs of a mean similarity of {similarity[similarity > 0.3].mean():.2f} "
        f"(largest {similarity.max():.2f}), none a copy; among {len(similarity):,} pairs in all:",
        "",
        "| | pairs found / formula | of a similarity below 0.7 | left by `verify = 0.7` |",
        "|---|---|---|---|",
        *lines,
    ]


def verified(pairs: Pairs, least: float) -> list[str]:
    """Precision and recall with the comparison of candidates."""
    part = pairs.similarity >= least
    lines = []
    for name, (bands, rows) in SETTINGS.items():
        cells = []
        for verify in (None, least):
            hasher = MinHasher(GRAM, bands, rows)
            found, _ = pairs.found(NearCopiesStep(name, "none", "earliest", hasher=hasher, verify=verify))
            cells.append(f"{found[part].mean():.4f}, {(found & part).sum() / found.sum():.4f}")
        lines.append(f"| {name} {bands} x {rows} | {' | '.join(cells)} |")
    return [
        f"Recall and precision for pairs of a similarity of at least {least}, without and with `verify = {least}`:",
        "",
        "| | every candidate | verified |",
        "|---|---|---|",
        *lines,
    ]


def others(count: int) -> list[str]:
    """Exact copies, paragraphs and passages."""
    planter = Planter(2)
    texts = [planter.text(200) for _ in range(count)]
    exact = run(CopiesStep("exact"), texts, texts[: count // 2])
    parts = [planter.text(120) for _ in range(count)]
    pages = [f"{planter.text(80)}\n\n{part}\n\n{planter.text(80)}" for part in parts]
    again = [f"{planter.text(90)}\n\n{part}\n\n{planter.text(60)}" for part in parts[: count // 2]]
    paragraphs_cut = run(RepeatedUnitsStep("paragraphs"), pages, again)
    whole = [cuts for decision in paragraphs_cut.get(1, []) for cuts in decision.cuts]
    length, slack = 100, 16
    passages = [planter.text(int(size)) for size in planter.random.integers(length, 300, count)]
    first = [planter.text(70) + passage + planter.text(90) for passage in passages]
    second = [planter.text(50) + passage + planter.text(60) for passage in passages[: count // 2]]
    substrings = run(RepeatedSubstringsStep("substrings", length, slack), first, second)
    covered = outside = missed = 0
    for decision in substrings.get(1, []):
        cut = {place for start, stop in decision.cuts for place in range(start, stop)}
        own = range(50, 50 + len(passages[decision.document]))
        sure = range(own.start + slack - 1, own.stop - slack + 1)
        covered += set(sure) <= cut
        outside += len(cut - set(own))
        missed += len(set(own) - cut)
    half = count // 2
    right = sum((start, stop) == (92, 214) for start, stop in whole)
    return [
        "| kind | planted | found whole | touched besides |",
        "|---|---|---|---|",
        f"| exact copies | {half:,} | {len(exact.get(1, [])):,} | {len(exact.get(0, []))} documents |",
        f"| paragraphs | {half:,} | {right:,} | {len(whole) - right + len(paragraphs_cut.get(0, []))} paragraphs |",
        f"| passages of {length} to 300 characters | {half:,} | {covered:,}, but for {missed / half:.1f} characters at "
        f"both ends (at most {2 * slack - 2}) | {outside} characters, {len(substrings.get(0, []))} documents |",
    ]


def main() -> None:
    """Print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--characters", type=int, default=150)
    parser.add_argument("--documents", type=int, default=1500, help="strangers")
    parser.add_argument("--planted", type=int, default=4000, help="documents of each other kind")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the marks of this page")
    options = parser.parse_args()
    pairs = Pairs(options.pairs, options.characters)
    lines, worst = curves(pairs)
    lines += ["", *verified(pairs, 0.7), "", *strangers(options.documents), "", *others(options.planted)]
    print("\n".join(lines))
    if options.write is not None:
        write_between(options.write, "recall", "\n".join(lines))
    if worst >= 0.02:
        raise SystemExit(f"a distance of {worst:.4f} from the formula: 0.02 is allowed")


if __name__ == "__main__":
    main()
