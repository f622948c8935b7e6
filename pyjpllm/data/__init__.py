"""Tokenizer, token files, packing, blends and the loader."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyjpllm.data.batch import Batch
    from pyjpllm.data.encode import EncodeStats, encode_files
    from pyjpllm.data.indexed import IndexedDataset, IndexedWriter
    from pyjpllm.data.loader import Loader, build_loader
    from pyjpllm.data.tokenizer import Tokenizer
    from pyjpllm.data.tokenizer_train import TokenizerOptions, train_tokenizer

__all__ = [
    "Batch",
    "EncodeStats",
    "IndexedDataset",
    "IndexedWriter",
    "Loader",
    "Tokenizer",
    "TokenizerOptions",
    "build_loader",
    "encode_files",
    "train_tokenizer",
]

_HOMES = {
    "Batch": "batch",
    "EncodeStats": "encode",
    "IndexedDataset": "indexed",
    "IndexedWriter": "indexed",
    "Loader": "loader",
    "Tokenizer": "tokenizer",
    "TokenizerOptions": "tokenizer_train",
    "build_loader": "loader",
    "encode_files": "encode",
    "train_tokenizer": "tokenizer_train",
}


def __getattr__(name: str) -> Any:
    # By need, since the processes that encode text import this package and must not pay for torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
