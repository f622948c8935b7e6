"""A corpus, a tokenizer and a config small enough to train in a second, made once for all tests of the trainer."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path
from typing import Any

from pyjpllm.config import Config, load_config
from pyjpllm.data import IndexedWriter, TokenizerOptions, train_tokenizer

_WORDS = ["計算機", "言語", "学習", "日本語", "並列", "行列", "記憶", "速度", "模型", "文章", "確率", "単語"]
_WORDS += ["の", "を", "に", "は", "と", "が", "で", "する", "した", "いる", "です", "ます"]


def _documents(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choice(_WORDS) for _ in range(rng.randint(3, 40))) + "。" for _ in range(count)]


@functools.cache
def data_folder() -> Path:
    """A folder with tokenizer/, train.bin, train.idx, valid.bin and valid.idx; gone with the process."""
    keep = tempfile.TemporaryDirectory(prefix="pyjpllm-test-data-")
    _KEPT.append(keep)
    folder = Path(keep.name)
    texts = {"train": _documents(300, 1), "valid": _documents(60, 2)}
    tokenizer = train_tokenizer(texts["train"], folder / "tokenizer", TokenizerOptions(vocab_size=450))
    for name, documents in texts.items():
        with IndexedWriter(folder / name, tokenizer.vocab_size) as writer:
            for text in documents:
                writer.add([*tokenizer.encode(text), tokenizer.eos_id])
    return folder


_KEPT: list[Any] = []


def small_config(data: Path, *overrides: str) -> Config:
    """A two-layer model on ``data``; ``overrides`` as on the command line."""
    text = f"""
    [model]
    hidden_size = 32
    num_layers = 2
    num_heads = 4
    num_kv_heads = 2
    head_dim = 8
    intermediate_size = 48
    tie_embeddings = true
    max_position = 64
    [data]
    train = [{{path = "{data}/train"}}]
    valid = [{{path = "{data}/valid"}}]
    tokenizer = "{data}/tokenizer"
    sequence_length = 32
    [optimizer]
    lr = 1e-2
    [schedule]
    warmup_steps = 2
    [train]
    steps = 12
    global_batch = 8
    micro_batch = 2
    eval_batches = 2
    [checkpoint]
    interval = 4
    [log]
    tensorboard = false
    """
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        return load_config(Path(file.name), list(overrides))
