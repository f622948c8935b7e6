"""The quickstart's model trained in each precision on the same batches: how far the held-out loss ends from FP32's.

    scripts/quickstart.sh                                     makes text, tokenizer and token files in quickstart/
    python -m benchmarks.precision quickstart [--lr 1e-3] [--steps 800] [--only bf16 fp16] [--out precision]

A row is one run of `jpllm train` on one thread with scripts/quickstart/config.toml; the loss is that of all held-out
batches after the last step. A second FP32 run with another seed shows how much the order of the text alone changes.
With too high a learning rate (--lr 4e-3, say) runs that differ in a rounding part for good in the warm-up, and what is
left at the end says nothing about precision.
Runs that are finished in --out are not made again. Prints a table for docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pyjpllm.errors import UserError

CONFIG = Path(__file__).resolve().parents[1] / "scripts" / "quickstart" / "config.toml"
EVAL_BATCHES = 50  # of 8 sequences of 256 tokens: nearly all of the 118,674 held-out tokens


@dataclass(frozen=True)
class Run:
    """A row of the table and what it changes in the config."""

    name: str
    what: str
    overrides: tuple[str, ...]


RUNS = (
    Run("fp32", "FP32", ()),
    Run("fp32-seed", "FP32, another seed", ("train.seed=2",)),
    Run("bf16", "BF16, masters and sums in FP32", ("precision.dtype=bf16",)),
    Run("int16", "FP32, products of layers in 16-bit integers", ("precision.math=int16",)),
    Run("fp16", "FP16, loss scaling, sums in FP32", ("precision.dtype=fp16",)),
    Run(
        "fp16-chunk",
        "FP16, loss scaling, sums of 32 products in FP16, of these in FP32",
        ("precision.dtype=fp16", "precision.math=fp16-chunk"),
    ),
)


def train(run: Run, work: Path, out: Path, lr: float, steps: int | None) -> tuple[dict[str, float], int]:
    """The last held-out metrics and the skipped steps of ``run``, trained now unless it was."""
    folder = out / run.name
    if not (folder / "finished").exists():
        settings = ["train.kernels=native", f"optimizer.lr={lr}", f"train.eval_batches={EVAL_BATCHES}", *run.overrides]
        if steps is not None:
            settings += [f"train.steps={steps}", f"schedule.warmup_steps={max(steps // 20, 1)}"]
        command = [sys.executable, "-m", "pyjpllm", "train", str(CONFIG), *settings, "--run", str(folder.resolve())]
        done = subprocess.run(command, cwd=work, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode != 0:
            raise UserError(f"{run.name}: training ended with status {done.returncode}; see above")
        (folder / "finished").touch()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    held_out = [r for r in records if r.get("valid_loss") is not None]
    return held_out[-1], records[-1].get("skipped", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a quickstart's work folder")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (default: 1e-3, the quickstart's)")
    parser.add_argument("--steps", type=int, help="training steps (default: the quickstart's)")
    parser.add_argument("--only", nargs="+", choices=[run.name for run in RUNS], help="these rows, besides fp32")
    parser.add_argument("--out", type=Path, default=Path("precision"), help="folder of the runs")
    arguments = parser.parse_args()
    if not (arguments.work / "tokens").is_dir():
        parser.error(f"{arguments.work} has no tokens folder: name the work folder of scripts/quickstart.sh")
    chosen = [run for run in RUNS if arguments.only is None or run.name in ("fp32", *arguments.only)]
    print("| precision | held-out loss, nats a token | beside FP32 | skipped steps |\n|---|---|---|---|", flush=True)
    base = None
    for run in chosen:
        metrics, skipped = train(run, arguments.work, arguments.out, arguments.lr, arguments.steps)
        loss = metrics["valid_loss"]
        base = loss if base is None else base
        print(f"| {run.what} | {loss:.4f} | {loss / base - 1:+.2%} | {skipped} |", flush=True)


if __name__ == "__main__":
    main()
