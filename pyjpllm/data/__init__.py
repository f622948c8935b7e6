"""Tokenizer, token files, packing, blends and the loader."""

from pyjpllm.data.batch import Batch
from pyjpllm.data.indexed import IndexedDataset, IndexedWriter
from pyjpllm.data.loader import Loader, build_loader
from pyjpllm.data.tokenizer import Tokenizer

__all__ = ["Batch", "IndexedDataset", "IndexedWriter", "Loader", "Tokenizer", "build_loader"]
