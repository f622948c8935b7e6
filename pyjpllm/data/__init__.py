"""Tokenizer, token files, packing, blends and the loader."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyjpllm.data.batch import Batch
    from pyjpllm.data.encode import EncodeStats, encode_files
    from pyjpllm.data.indexed import IndexedDataset, IndexedWriter
    from pyjpllm.data.loader import Loader, build_loader
    from pyjpllm.data.token_output import TokenOutput
    from pyjpllm.data.tokenizer import Tokenizer
    from pyjpllm.data.tokenizer_expand import Expansion, add_pieces, expand_tokenizer
    from pyjpllm.data.tokenizer_train import TokenizerOptions, recipe_options, train_tokenizer

__all__ = [
    "Batch",
    "EncodeStats",
    "Expansion",
    "IndexedDataset",
    "IndexedWriter",
    "Loader",
    "TokenOutput",
    "Tokenizer",
    "TokenizerOptions",
    "add_pieces",
    "build_loader",
    "encode_files",
    "expand_tokenizer",
    "recipe_options",
    "train_tokenizer",
]

_HOMES = {
    "Batch": "batch",
    "EncodeStats": "encode",
    "Expansion": "tokenizer_expand",
    "IndexedDataset": "indexed",
    "IndexedWriter": "indexed",
    "Loader": "loader",
    "TokenOutput": "token_output",
    "Tokenizer": "tokenizer",
    "TokenizerOptions": "tokenizer_train",
    "add_pieces": "tokenizer_expand",
    "build_loader": "loader",
    "encode_files": "encode",
    "expand_tokenizer": "tokenizer_expand",
    "recipe_options": "tokenizer_train",
    "train_tokenizer": "tokenizer_train",
}


def __getattr__(name: str) -> Any:
    # By need, since the processes that encode text import this package and must not pay for torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
