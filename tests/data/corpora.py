"""Small corpora, a small tokenizer and a config over them, for the tests of this room."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np

from pyjpllm.config.schema import Config
from pyjpllm.data.indexed import IndexedWriter
from pyjpllm.data.tokenizer import Tokenizer
from pyjpllm.data.tokenizer_train import TokenizerOptions, train_tokenizer

SENTENCES = (
    "吾輩は猫である。名前はまだ無い。",
    "どこで生れたかとんと見当がつかぬ。",
    "何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。",
    "    return x + 1  # 例",
    "2024年12月31日 12:34",
    "ＡＢＣ①㌔㋿ｶﾞ",
    "Hello, world! This is a test of the tokenizer.",
    "<s>タグ</s>\t表\r",
)


def texts(count: int, seed: int = 0) -> list[str]:
    """Documents of 1 to 9 lines, made of the sentences above and of invented words."""
    chance = random.Random(seed)
    syllables = random.Random(0)
    # Kanji and Latin among the kana: sentencepiece finds few pieces where all characters begin with the same bytes.
    alphabet = "かきくけこさしすせそ日本語文字学校国会研究開発abc"
    words = ["".join(syllables.choice(alphabet) for _ in range(1 + n % 4)) for n in range(300)]

    def line() -> str:
        invented = "".join(chance.choice(words) for _ in range(chance.randint(2, 8))) + "。"
        return chance.choice((invented, chance.choice(SENTENCES)))

    return ["\n".join(line() for _ in range(chance.randint(1, 9))) for _ in range(count)]


@functools.lru_cache
def _model(kind: Any) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(texts(1500), folder, TokenizerOptions(vocab_size=480, kind=kind, threads=1))
        return (Path(folder) / "tokenizer.model").read_bytes()


def make_tokenizer(folder: Path, kind: str = "unigram") -> Tokenizer:
    """A tokenizer of 480 pieces in ``folder``; eos is 1."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(_model(kind))
    return Tokenizer.load(folder)


def write_corpus(prefix: Path, sizes: list[int], *, vocab_size: int = 512, seed: int = 0, eos: int = 1) -> None:
    """Documents of these many random tokens; the last of each is ``eos`` (none for -1)."""
    chance = np.random.default_rng(seed)
    with IndexedWriter(prefix, vocab_size) as writer:
        for size in sizes:
            ids = chance.integers(3, vocab_size, size)
            if eos >= 0 and size:
                ids[-1] = eos
            writer.add(ids)


def make_config(folder: Path, **overrides: Any) -> Config:
    """A config over ``folder``'s corpora `a` and `b` (weights 3 and 1), held-out `v` and `w`; keys as `train__seed`."""
    tree: dict[str, Any] = {
        "model": {
            "hidden_size": 8,
            "num_layers": 1,
            "num_heads": 1,
            "num_kv_heads": 1,
            "head_dim": 8,
            "intermediate_size": 8,
            "vocab_size": 512,
        },
        "data": {
            "train": [
                {"path": str(folder / "a"), "weight": 3.0},
                {"path": str(folder / "b"), "weight": 1.0},
            ],
            "valid": [{"path": str(folder / "v")}, {"path": str(folder / "w")}],
            "tokenizer": str(folder / "tokenizer"),
            "sequence_length": 16,
        },
        "train": {"steps": 1, "global_batch": 8, "micro_batch": 1, "seed": 7},
    }
    for key, value in overrides.items():
        section, name = key.split("__")
        tree[section][name] = value
    return Config.model_validate(tree)


def make_folder(folder: Path) -> Path:
    """Tokenizer and corpora for ``make_config``."""
    chance = random.Random(1)
    make_tokenizer(folder / "tokenizer")
    for seed, (name, count) in enumerate({"a": 60, "b": 25, "v": 12, "w": 5}.items()):
        write_corpus(folder / name, [chance.randint(0, 70) for _ in range(count)], seed=seed)
    return folder
