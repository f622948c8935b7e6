"""Small models trained on what each preset keeps of the labelled crawl, the same number of tokens each, three seeds.

    python -m benchmarks.corpus.ablation --work WORK [--steps 2160] [--only PRESET ...] [--write docs/corpus.md]

Scored in bits per byte of documents that no page of the crawl has (`jpllm evaluate`): whole, as the crawl's clean
documents are, and their prose alone, as the quickstart scores it. One tokenizer for all, trained on
the crawl as it is and on its documents. Where less was kept than is trained on, it is read more than once: the column
epochs. What is done in WORK is not done again, so that a run which was ended goes on; two commands with different
--only can work beside each other in one WORK once the tokenizer stands there.

Settled before the models of the default were trained: its number of steps (about as many tokens as two readings of what
the presets of highest recall keep), its seeds (seed 1 had been seen, at other steps and at this one), and that a preset
is within noise of the best when the means differ by less than twice the standard error of their difference, on whole
documents and on prose.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.corpus.selection import PRESETS, VARIANTS, build, call, make_crawl
from benchmarks.ranks import write_between
from pyjpllm.data.indexed import read_index
from pyjpllm.errors import UserError

SEQUENCE, BATCH, STEPS = 256, 8, 2160
SEEDS = (2, 3, 4)
HELD_OUT = {"whole documents": "heldout-whole", "their prose": "heldout"}
CONFIG = """\
[model]
hidden_size = 128
num_layers = 3
num_heads = 4
intermediate_size = 352
tie_embeddings = true
max_position = 2048
rope_theta = 10000.0

[data]
train = [{{ path = "{tokens}" }}]
tokenizer = "{tokenizer}"
sequence_length = {sequence}

[optimizer]
lr = 3e-3

[schedule]
kind = "wsd"
warmup_steps = {warmup}
decay_fraction = 0.3

[train]
steps = {steps}
global_batch = {batch}
micro_batch = {batch}
seed = {seed}
"""


def tokens_of(work: Path, run: Path, tokenizer: Path) -> tuple[Path, int]:
    """Token files of a run's documents, and how many tokens they have."""
    prefix = work / "tokens" / run.name
    mark = prefix.with_name(f"{run.name}.done")
    if not mark.exists():
        prefix.parent.mkdir(exist_ok=True)
        call("pyjpllm", "tokenizer", "encode", f"{run}/documents", "--tokenizer", str(tokenizer), "--out", str(prefix))
        mark.touch()
    return prefix, int(read_index(prefix).sizes.sum())


def train_tokenizer(work: Path) -> Path:
    """The tokenizer of all models, trained now unless it is there."""
    tokenizer = work / "tokenizer"
    if not (work / "tokenizer.done").exists():
        texts = (str(make_crawl(work) / "documents.jsonl"), str(build(work, "raw") / "documents"))
        call("pyjpllm", "tokenizer", "train", *texts, "--out", str(tokenizer), "--vocab-size", "4096", "--kind", "bpe")
        (work / "tokenizer.done").touch()
    return tokenizer


def train(work: Path, name: str, tokens: Path, tokenizer: Path, steps: int, seed: int) -> Path:
    """The run of a model of its own, trained now unless it was."""
    folder = work / "models" / f"{name}-{steps}-{seed}"
    mark = folder.with_suffix(".done")
    if not mark.exists():
        folder.parent.mkdir(exist_ok=True)
        config = folder.with_suffix(".toml")
        config.write_text(
            CONFIG.format(
                tokens=tokens,
                tokenizer=tokenizer,
                sequence=SEQUENCE,
                steps=steps,
                batch=BATCH,
                seed=seed,
                warmup=max(steps // 12, 1),
            ),
            encoding="utf-8",
        )
        forked(["train", str(config), "train.kernels=native", "--run", str(folder)], folder.with_suffix(".log"))
        mark.touch()
    return folder


def score(work: Path, folder: Path, name: str) -> float:
    """Bits per byte of held-out documents by the model of a run, scored now unless it was."""
    result = folder.with_suffix(f".{name}.json")
    if not result.exists():
        beside = result.with_suffix(".tmp")
        text = make_crawl(work) / f"{name}.jsonl"
        words = ["evaluate", str(folder), "--text", str(text), "--stride", str(SEQUENCE)]
        forked([*words, "--kernels", "native", "--json"], beside)
        os.replace(beside, result)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return float(found["bits_per_byte"])


def forked(words: Sequence[str], output: Path) -> None:
    """Run `jpllm WORDS` in a fork of this process, its standard output in a file. torch is loaded once for all: that
    takes longer than these models do. Raises UserError when the command fails."""
    import pyjpllm.evaluation.heldout
    import pyjpllm.training.trainer  # noqa: F401
    from pyjpllm.cli.app import run

    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(output, "w", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                code = run(list(words))
                sys.stdout.flush()
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise UserError(f"jpllm {' '.join(words)}: failed; see above and {output}")


Scores = dict[str, list[float]]
"""By what is scored: bits per byte, a seed each."""


def behind(scores: Sequence[float], best: Sequence[float]) -> str:
    """How far the mean of some scores lies above that of the best ones, in standard errors of the difference: the root
    of the sum of both variances, each over its number of seeds. Empty for the best itself, and for single seeds."""
    difference = statistics.mean(scores) - statistics.mean(best)
    if difference == 0 or len(scores) < 2 or len(best) < 2:
        return ""
    error = math.sqrt(sum(statistics.variance(each) / len(each) for each in (scores, best)))
    return f"{difference / error:.1f}" if error else "inf"


def table(rows: dict[str, tuple[int, Scores]], trained: int) -> str:
    """A row a variant: tokens kept, epochs; for all that is scored mean and standard deviation, and how far the mean is
    from the best, as a share and in standard errors of the difference."""
    scored = list(next(iter(rows.values()))[1])
    best = {name: min((scores[name] for _, scores in rows.values()), key=statistics.mean) for name in scored}
    heads = [f"{name}: bits per byte, mean of {{seeds}} | deviation | above the best | in errors" for name in scored]
    lines = [
        f"| trained on {trained:,} tokens of | tokens kept | epochs | {' | '.join(heads)} |",
        "|---|---|---|" + "---|---|---|---|" * len(scored),
    ]
    seeds = 0
    for variant, (kept, scores) in rows.items():
        cells = []
        for name in scored:
            mean = statistics.mean(scores[name])
            spread = f"{statistics.stdev(scores[name]):.4f}" if len(scores[name]) > 1 else ""
            share = mean / statistics.mean(best[name]) - 1
            cells.append(f"{mean:.4f} | {spread} | {share:.1%} | {behind(scores[name], best[name])}")
            seeds = max(seeds, len(scores[name]))
        lines.append(f"| {variant} | {kept:,} | {trained / kept:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines).replace("{seeds}", str(seeds))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, score, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=("raw", *PRESETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="SEED")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {SEQUENCE * BATCH} tokens")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    options = parser.parse_args(arguments)
    work = options.work.resolve()
    tokenizer = train_tokenizer(work)
    prepared = {}
    for variant in options.only:
        run = build(work, variant)
        prepared[variant] = (run.name, *tokens_of(work, run, tokenizer))
    rows: dict[str, tuple[int, Scores]] = {
        variant: (kept, {name: [] for name in HELD_OUT}) for variant, (_, _, kept) in prepared.items()
    }
    for seed in options.seeds:  # a whole table after the first seed already
        for variant, (run_name, tokens, _) in prepared.items():
            folder = train(work, run_name, tokens, tokenizer, options.steps, seed)
            for name, file in HELD_OUT.items():
                rows[variant][1][name].append(score(work, folder, file))
                print(f"{variant} seed {seed}, {name}: {rows[variant][1][name][-1]:.4f}", flush=True)
    text = table(rows, options.steps * SEQUENCE * BATCH)
    print(text)
    if options.write is not None:
        write_between(options.write, "ablation" if options.steps == STEPS else f"ablation-{options.steps}", text)


if __name__ == "__main__":
    main()
