"""Configs and files for the tests of config and cli."""

from __future__ import annotations

import json
from pathlib import Path

from pyjpllm.config.schema import Config

TEXT = """\
[model]
preset = "tiny"

[data]
train = [{path = "tokens/web", weight = 9}, {path = "tokens/wiki"}]
valid = [{path = "tokens/heldout"}]
tokenizer = "tokenizer"
sequence_length = 128

[optimizer]
lr = 1e-3

[schedule]
warmup_steps = 10

[train]
steps = 100
global_batch = 8
micro_batch = 2
eval_interval = 50
"""


def write_project(folder: Path, text: str = TEXT) -> Path:
    """A folder with a config and (empty) files of every name that the config mentions; returns the config's path."""
    (folder / "tokens").mkdir()
    for name in ("web", "wiki", "heldout"):
        for suffix in (".bin", ".idx"):
            (folder / "tokens" / f"{name}{suffix}").touch()
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.model").touch()
    llama = folder / "llama"
    llama.mkdir()
    (llama / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (llama / "model.safetensors").touch()
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def config(**sections: dict[str, object]) -> Config:
    """A valid config with some fields changed: ``config(train={"steps": 3})``."""
    raw: dict[str, dict[str, object]] = {
        "model": {
            "hidden_size": 128,
            "num_layers": 4,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 32,
            "intermediate_size": 384,
        },
        "data": {"train": [{"path": "tokens/web"}], "tokenizer": "tokenizer", "sequence_length": 128},
        "train": {"steps": 100, "global_batch": 8, "micro_batch": 2},
    }
    for name, fields in sections.items():
        raw[name] = {**raw.get(name, {}), **fields}
    return Config.model_validate(raw)
