"""Run folders made up for the tests: the files that a trainer writes, with the shapes of a real run."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

CONFIG = """\
[model]
preset = "tiny"
hidden_size = 128
num_layers = 4
num_heads = 4
num_kv_heads = 2
head_dim = 32
intermediate_size = 384
vocab_size = 8000

[data]
train = [{path = "tokens/train", weight = 1.0}]
tokenizer = "tokenizer"
sequence_length = 512

[precision]
dtype = "fp32"

[parallel]
data = 2
tensor = 1

[train]
steps = STEPS
global_batch = 16
kernels = "torch"
device = "cpu"
"""


def record(step: int, noise: random.Random) -> dict[str, Any]:
    """One line of metrics as the trainer writes it."""
    return {
        "step": step,
        "tokens": step * 8192,
        "loss": 2.9 + 6.2 * math.exp(-step / 90) + noise.gauss(0, 0.06),
        "z_loss": 0.0,
        "grad_norm": abs(0.6 + 8 * math.exp(-step / 40) + noise.gauss(0, 0.1)),
        "lr": 3e-4 * min(1.0, step / 50),
        "tokens_per_second": 5200 + noise.gauss(0, 150),
        "mfu": 0.46 + noise.gauss(0, 0.01),
        "skipped": 0,
        "seconds": {
            "data": 0.01,
            "forward": 0.5 + noise.gauss(0, 0.01),
            "backward": 0.9,
            "communicate": 0.08,
            "optimizer": 0.05,
            "total": 1.6 + noise.gauss(0, 0.01),
        },
    }


def make_run(folder: Path, steps: int, *, planned: int | None = None, seed: int = 0) -> Path:
    """Write a run of ``steps`` steps with an evaluation every tenth part of it."""
    noise = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(CONFIG.replace("STEPS", str(planned or steps)), encoding="utf-8")
    every = max(1, steps // 10)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            line = record(step, noise)
            if step % every == 0:
                line["valid_loss"] = line["loss"] + 0.1
                line["valid_bits_per_byte"] = line["valid_loss"] / math.log(2) / 4.7
                line["seconds"]["evaluate"] = 2.0
            file.write(json.dumps(line) + "\n")
    samples = [
        {"step": step, "prompt": "吾輩は", "text": f"猫である。<b>名前</b>は{step}番目に & まだ無い。\nどこで生れたか"}
        for step in range(every, steps + 1, every)
    ]
    (folder / "samples.jsonl").write_text(
        "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples), encoding="utf-8"
    )
    for step in (steps // 2, steps):
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "rank-00000-000.safetensors").write_bytes(b"x" * 5000)
        (checkpoint / "manifest.json").write_text("{}")
    return folder
