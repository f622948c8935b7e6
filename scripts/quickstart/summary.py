"""What came out of a quickstart, where it is, and what to try next.

python summary.py WORK VENV
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> None:
    work, venv = (Path(argument) for argument in arguments)
    print("\n".join([*results(work), "", *places(work), "", *next_steps(work, venv)]))


def results(work: Path) -> list[str]:
    """The model beside xz, and the training in a line."""
    evaluation: dict[str, Any] = json.loads((work / "evaluation.json").read_text(encoding="utf-8"))
    xz = evaluation["baselines"]["xz"]
    ours, theirs = evaluation["bits_per_byte"], xz["bits_per_byte"]
    verdict = f"{1 - ours / theirs:.0%} less than xz" if ours < theirs else "no less than xz: train for more steps"
    records = (work / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(records[-1])
    seconds = sum(json.loads(record)["seconds"]["total"] for record in records)
    return [
        f"held-out text      {evaluation['documents']:,} whole documents, {evaluation['bytes'] / 1e6:.2f} MB",
        f"the model          {ours:.3f} bits per byte ({verdict})",
        f"{xz['setting']:<19}{theirs:.3f} bits per byte",
        f"training           {last['step']:,} steps, {last['tokens'] / 1e6:.2f} M tokens in {seconds:,.0f} s",
    ]


def places(work: Path) -> list[str]:
    """Where everything is, with paths as they can be typed from here."""
    rows = [
        ("run/report.html", "loss, rates and samples on one page"),
        ("samples.txt", "what the exported model wrote"),
        ("hf", "the model for transformers"),
        ("run", "the run: config, metrics, TensorBoard events, checkpoints"),
        ("evaluation.json", "the figures above, and more"),
        ("text", "the cleaned text: train.jsonl, heldout.jsonl"),
    ]
    return [f"{shown(work / name):<32} {about}" for name, about in rows]


def next_steps(work: Path, venv: Path) -> list[str]:
    """Commands that work as they stand."""
    as_root = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    return [
        "try next:",
        f"  source {shown(venv / 'bin' / 'activate')}",
        *([f"  {as_root}"] if os.geteuid() == 0 else []),
        f"  jpllm generate {shown(work / 'run')} --prompt 'このコマンドは'",
        f"  cd {shown(work)} && mpirun -n 2 --bind-to none jpllm train run/config.toml train.steps=2000 --run longer",
        "  scripts/quickstart.sh --text YOUR.txt --work mine",
    ]


def shown(path: Path) -> str:
    """The path from the folder that the script was started in, where that is shorter."""
    relative = os.path.relpath(path, os.environ.get("STARTED_IN", "."))
    return min(relative, str(path), key=len)


if __name__ == "__main__":
    main(sys.argv[1:])
