"""A corpus pipeline's documents as token files: what `output.format = "tokens"` of `jpllm corpus build` writes with.

The room corpus lies below this one and knows no tokenizer; it is handed a ``TokenOutput`` (its ``TokenSink``).
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus import Document
from pyjpllm.data.encode import EncodeStats, encode_texts, stats_path
from pyjpllm.data.indexed import IndexedWriter, bin_path, idx_path, index_bytes, read_index, token_dtype
from pyjpllm.data.tokenizer import Tokenizer
from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write

_COPY = 1 << 22
_BATCH_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class TokenOutput:
    """``build_corpus(config, run, tokens=TokenOutput.load("tokenizer"))``. Small, so that it can go to processes; each
    loads the tokenizer once."""

    model_path: Path
    fingerprint: str

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TokenOutput:
        """``path``: a folder that holds tokenizer.model, or that file. Raises UserError where there is none."""
        tokenizer = Tokenizer.load(Path(path))
        return cls(tokenizer.model_path, tokenizer.fingerprint)

    def writer(self, prefix: Path, /) -> ShardWriter:
        """Writes documents into ``PREFIX.bin`` and ``PREFIX.idx``."""
        return ShardWriter(self._tokenizer(), prefix)

    def join(self, prefixes: Sequence[Path], target: Path, /, *, characters: int, size: int) -> dict[str, Any]:
        """``TARGET.bin``, ``.idx`` and, as the last, ``.json`` out of those of ``prefixes``; the same bytes as
        ``encode_files`` would write for all their documents. Returns what ``TARGET.json`` says, and the ratio."""
        if not stats_path(target).exists():
            tokenizer = self._tokenizer()
            sizes = join_token_files([prefix for prefix in prefixes if idx_path(prefix).exists()], target, tokenizer)
            stats = EncodeStats(
                documents=len(sizes),
                tokens=int(sizes.sum(dtype=np.int64)),
                characters=characters,
                bytes=size,
                eos_id=tokenizer.eos_id,
                vocab_size=tokenizer.vocab_size,
                tokenizer=tokenizer.fingerprint,
            )
            with atomic_write(stats_path(target)) as temporary:
                temporary.write_text(json.dumps(asdict(stats), indent=2) + "\n")
        stats = EncodeStats(**json.loads(stats_path(target).read_bytes()))
        return {**asdict(stats), "characters_per_token": round(stats.characters_per_token, 4)}

    def _tokenizer(self) -> Tokenizer:
        tokenizer = _loaded(self.model_path)
        if tokenizer.fingerprint != self.fingerprint:
            raise UserError(f"{self.model_path}: has changed since the run began")
        return tokenizer


@functools.lru_cache(maxsize=1)
def _loaded(path: Path) -> Tokenizer:
    return Tokenizer.load(path)


class ShardWriter:
    """``with ShardWriter(tokenizer, prefix) as writer: writer.add(document)``: each document's tokens and eos, in
    ``PREFIX.bin`` and ``PREFIX.idx``, which appear when the block ends well."""

    def __init__(self, tokenizer: Tokenizer, prefix: Path) -> None:
        self._tokenizer = tokenizer
        self._writer = IndexedWriter(prefix, tokenizer.vocab_size)
        self._texts: list[str] = []
        self._characters = 0

    def __enter__(self) -> ShardWriter:
        self._writer.__enter__()
        return self

    def add(self, document: Document) -> None:
        """Append a document's tokens."""
        self._texts.append(document.text)
        self._characters += len(document.text)
        if self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        encoded = encode_texts(self._tokenizer, self._texts)
        self._writer.add_many(encoded.ids, encoded.sizes)
        self._texts, self._characters = [], 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
        except BaseException as problem:
            self._writer.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self._writer.__exit__(kind, error, trace)


def join_token_files(prefixes: Iterable[Path], target: Path, tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Write ``TARGET.bin`` and ``TARGET.idx`` with the documents of all ``prefixes`` in their order; returns their
    sizes in tokens, int32 [documents]. Raises UserError for token files that are damaged."""
    dtype = token_dtype(tokenizer.vocab_size)
    sizes = [np.zeros(0, np.int32)]
    with atomic_write(bin_path(target)) as temporary, open(temporary, "wb") as out:
        for prefix in prefixes:
            sizes.append(read_index(prefix).sizes)
            with open(bin_path(prefix), "rb") as part:
                shutil.copyfileobj(part, out, _COPY)
    joined = np.concatenate(sizes)
    with atomic_write(idx_path(target)) as temporary:
        temporary.write_bytes(index_bytes(joined, dtype))
    return joined
