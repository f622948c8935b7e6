"""A classifier and a language model at work: what they tell apart, and documents a second of CPU time on one core.

    python -m benchmarks.corpus.documents --work work     # Japanese pages of Debian's packages
    python -m benchmarks.corpus.quality work/documents.jsonl [--documents 4000] [--repeat 5] [--work quality-benchmark]

The files are text as it should be (anything `read_documents` takes). From half of their documents junk is made, of
seven kinds that have the same characters and sizes; the classifier learns good from junk, the language model the good
ones alone. The other half is good and junk in the same way, and is what the table is about: how much of each kind a
limit leaves. Both limits keep 95% of the good documents of the first half that were held out.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Sequence

import numpy as np

from pyjpllm import _text
from pyjpllm.corpus import DocumentWriter, read_documents
from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.quality import Settings, train_classifier, train_language_model
from pyjpllm.corpus.quality.labels import Example, part_of
from pyjpllm.corpus.quality.training import judge

_LENGTH = 2000  # characters of the documents whose speed is measured


def _characters(text: str, others: Sequence[str], dice: random.Random) -> str:
    return "".join(dice.sample(text, len(text)))


def _words(text: str, others: Sequence[str], dice: random.Random) -> str:
    words = [text[a:b] for a, b in _text.words_by_script(text).tolist()]
    dice.shuffle(words)
    return "".join(words)


def _keywords(text: str, others: Sequence[str], dice: random.Random) -> str:
    words = sorted({text[a:b] for a, b in _text.words_by_script(text).tolist() if b - a > 1}) or [text]
    return " ".join(dice.choices(words, k=max(1, len(text) // 5)))[: len(text)]


def _menu(text: str, others: Sequence[str], dice: random.Random) -> str:
    pieces = [line[: dice.randint(3, 9)] for line in text.split("\n") if line.strip()]
    return "\n".join(dice.choices(pieces, k=max(1, len(text) // 7)))[: len(text)]


def _repetition(text: str, others: Sequence[str], dice: random.Random) -> str:
    line = dice.choice([line for line in text.split("\n") if line.strip()]) + "\n"
    return (line * (len(text) // len(line) + 1))[: len(text)]


def _numbers(text: str, others: Sequence[str], dice: random.Random) -> str:
    rows = (f"{text[i : i + 4].strip()}\t{dice.randrange(10**4)}\t{dice.random():.3f}" for i in range(0, len(text), 16))
    return "\n".join(rows)[: len(text)]


def _mixture(text: str, others: Sequence[str], dice: random.Random) -> str:
    lines = [line for other in dice.choices(others, k=20) for line in other.split("\n")]
    return "\n".join(dice.choices(lines, k=len(text.split("\n"))))


# Junk by name: made of one document, but for the last, whose every line is in order and which only sense could tell.
JUNK: dict[str, Callable[[str, Sequence[str], random.Random], str]] = {
    "characters shuffled": _characters,
    "words shuffled": _words,
    "keyword list": _keywords,
    "menu": _menu,
    "one line repeated": _repetition,
    "table of numbers": _numbers,
    "lines of 20 documents": _mixture,
}


def speeds(texts: Sequence[str], ways: dict[str, Callable[[list[str]], object]], repeat: int) -> None:
    """Print documents a second of documents cut to one length; the rounds take turns, and the best of each counts."""
    whole = "\n".join(texts)
    pieces = [whole[i : i + _LENGTH] for i in range(0, min(len(whole), 1000 * _LENGTH) - _LENGTH, _LENGTH)]
    best: dict[str, float] = {}
    for _ in range(repeat):
        for name, way in ways.items():
            started = time.process_time()
            way(pieces)
            best[name] = min(best.get(name, float("inf")), time.process_time() - started)
    print(f"\nspeed on {len(pieces)} documents of {_LENGTH} characters, one core")
    for name, seconds in best.items():
        print(f"{name:<38}{len(pieces) / seconds:>10,.0f} documents/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+")
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--work", default="quality-benchmark")
    options = parser.parse_args()

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    dice = random.Random(1)
    texts = [one.text for one in read_documents(options.text) if len(one.text) >= 200]
    dice.shuffle(texts)
    texts = texts[: options.documents]
    first, second = texts[::2], texts[1::2]
    makers = list(JUNK.values())
    junk = [makers[i % len(makers)](text, first, dice) for i, text in enumerate(first)]
    os.makedirs(options.work, exist_ok=True)
    with DocumentWriter(f"{options.work}/good.jsonl.zst") as writer:
        for text in first:
            writer.add(Document(text))

    started = time.process_time()
    examples = [Example(text, "good") for text in first] + [Example(text, "junk") for text in junk]
    classifier = train_classifier(examples, Settings(), good="good")
    print(f"classifier: {time.process_time() - started:.1f} s; {classifier.report['documents']}")
    for key in ("uncalibrated", "held_out"):
        print(f"  {key:<14}", ", ".join(f"{name} {value:.4f}" for name, value in classifier.report[key].items()))
    started = time.process_time()
    model = train_language_model([f"{options.work}/good.jsonl.zst"], held_out=0.1)
    report = model.report
    print(f"language model: {time.process_time() - started:.1f} s; {report['characters']:,} characters, "
          f"{report['n_grams']}, {model.slots.nbytes / 2**20:.0f} MiB, "
          f"perplexity held out {report['held_out']['perplexity']:.2f}")  # fmt: skip

    good_scores = classifier.scores(second)
    made = {name: [maker(text, second, dice) for text in second] for name, maker in JUNK.items()}
    held_out = [text for text in first if part_of(text, 0, Settings().held_out) == "test"]
    least = float(np.percentile(classifier.scores(held_out), 5))
    most = float(report["held_out"]["percentiles"]["95"])
    print(f"\nthe other half: {len(second)} documents, and as many of each kind")
    print(f"{'':<24}{'score, median':>15}{f'from {least:.3f}':>12}{'perplexity, median':>20}{f'to {most:.1f}':>10}")
    for name, some in {"good": second, **made}.items():
        scores = np.array(good_scores if name == "good" else classifier.scores(some))
        values = np.array(model.perplexities(some))
        print(f"{name:<24}{np.median(scores):>15.3f}{(scores >= least).mean():>12.1%}"
              f"{np.median(values):>20.1f}{(values <= most).mean():>10.1%}")  # fmt: skip
    fresh = [Example(text, "good") for text in second]
    fresh += [Example(made[list(JUNK)[i % len(JUNK)]][i], "junk") for i in range(len(second))]
    print("classifier on the other half:", ", ".join(f"{k} {v:.4f}" for k, v in judge(classifier, fresh).items()))

    four = train_classifier([Example(e.text, i % 4) for i, e in enumerate(examples[:400])], Settings(epochs=1))
    speeds(
        second,
        {
            "classifier of two labels": classifier.scores,
            "classifier of four labels": four.scores,
            f"perplexity, order {model.order}": model.perplexities,
        },
        options.repeat,
    )


if __name__ == "__main__":
    main()
