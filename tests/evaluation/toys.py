"""A tokenizer of bytes and small models, for tests of what is built on them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import torch

from pyjpllm.config.schema import ModelConfig
from pyjpllm.model import Transformer, initialize


class ByteTokenizer:
    """One token a byte of the NFKC-normalised text; 256 ends a document."""

    vocab_size = 257
    eos_id = 256
    bos_id = -1

    def encode(self, text: str) -> list[int]:
        return list(unicodedata.normalize("NFKC", text).encode("utf-8"))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8")


def tiny_config(**changes: object) -> ModelConfig:
    """A model of two layers with grouped heads."""
    fields: dict[str, object] = {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 4,
        "intermediate_size": 24,
        "vocab_size": 257,
        "init_std": 0.4,
    }
    return ModelConfig.model_validate(fields | changes)


def tiny_model(dtype: torch.dtype = torch.float64, **changes: object) -> Transformer:
    """The same weights for the same shape, large enough that predictions differ a lot."""
    model = Transformer(tiny_config(**changes), dtype=dtype)
    initialize(model, 7)
    return model


TEXTS = [
    "吾輩は猫である。名前はまだ無い。",
    "",
    "どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。",
    "a",
    "ＡＢＣ１２３ｶﾀｶﾅ",
    "日本語のテキスト\n改行もある。",
    "short",
    "吾輩はここで始めて人間というものを見た。",
]
