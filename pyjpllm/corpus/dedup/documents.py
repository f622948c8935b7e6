"""Global steps that drop whole documents: copies (equal after folding) and near copies (MinHash-LSH)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from pyjpllm.corpus.dedup.keyfiles import KeyFiles
from pyjpllm.corpus.dedup.matching import Copies, find_copies
from pyjpllm.corpus.dedup.minhash import MinHasher
from pyjpllm.corpus.dedup.routing import ELSEWHERE, Numbering
from pyjpllm.corpus.dedup.signatures import SUFFIX, signature_files, write_signatures
from pyjpllm.corpus.dedup.verification import Verifier
from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.exchange import Exchange
from pyjpllm.corpus.folding import Folding, fold
from pyjpllm.corpus.readers import read_documents
from pyjpllm.corpus.stage import Decision
from pyjpllm.errors import UserError

Keep = Literal["longest", "earliest"]
"""Which of a component's documents stays: the one of most characters, or the first. Of equals, the first."""

_BATCH_DOCUMENTS = 512
_BATCH_CHARACTERS = 1 << 20


def document_batches(path: Path) -> Iterator[list[Document]]:
    """The documents of a shard, some at a time, so that native code is called for many."""
    batch: list[Document] = []
    size = 0
    for document in read_documents(path):
        batch.append(document)
        size += len(document.text)
        if len(batch) >= _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass
class _Copies(ABC):
    """What both steps share; ``settings`` names everything that the keys depend on."""

    name: str
    folding: Folding = "width"
    keep: Keep = "longest"
    measure: str | None = None
    """Keep the greatest number under this name in the documents' meta instead; ``keep`` decides among equals."""
    against: tuple[str, ...] = ()
    """Signature files of other corpora, or folders of them: what they hold is dropped here."""
    save: str | None = None
    """Folder for the signature files of what is kept, one a shard."""

    @property
    @abstractmethod
    def columns(self) -> int:
        """Keys of a document."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What two signature files must have in common to be compared."""

    reason = "copy"

    @abstractmethod
    def keys(self, texts: Sequence[str], verifier: Verifier | None) -> NDArray[np.uint64]:
        """[texts, columns] of folded texts; what else is known of them goes to the verifier."""

    def verifier(self, path: Path) -> Verifier | None:
        """What compares candidates, with a file of its own at ``path``; None: what shares a key is a copy."""
        return None

    def __call__(self, shards: Sequence[Path], exchange: Exchange, folder: Path, /) -> dict[int, list[Decision]]:
        """The copies among this rank's documents (pyjpllm.corpus.stage.GlobalStep). Raises UserError for a document
        without the number ``measure``, and for signature files that do not fit."""
        others = signature_files(self.against, self.settings)
        keys = KeyFiles(folder / f"keys-{exchange.rank:05d}", self.columns)
        verifier = self.verifier(folder / f"signatures-{exchange.rank:05d}.u32")
        counts, scores = [], []
        for shard in range(exchange.rank, len(shards), exchange.size):
            before = keys.rows
            for batch in document_batches(shards[shard]):
                keys.append(self.keys([fold(document.text, self.folding) for document in batch], verifier))
                scores.append(self._scores(batch, shards[shard]))
            counts.append(keys.rows - before)
        numbering = Numbering(counts, len(shards), exchange)

        def known(column: int) -> Iterator[NDArray[np.uint64]]:
            for file in others:
                yield from file.share(column, exchange.rank, exchange.size)

        every = np.concatenate([np.empty(0), *scores])
        copies = find_copies(keys, numbering, every, exchange, known if others else None, verifier=verifier)
        if self.save is not None:
            self._save(Path(self.save), keys, numbering, copies)
        return self._decisions(numbering, copies)

    def _scores(self, documents: Sequence[Document], path: Path) -> NDArray[np.float64]:
        if self.measure is None:
            if self.keep == "earliest":
                return np.zeros(len(documents))
            return np.array([len(document.text) for document in documents], np.float64)
        return np.array([self._measure(document, path) for document in documents], np.float64)

    def _measure(self, document: Document, path: Path) -> float:
        assert self.measure is not None
        value = document.meta.get(self.measure)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(
                f"{path}: a document has no number {self.measure!r} in its meta, which {self.name} keeps by"
            )
        try:
            return float(value)
        except OverflowError:
            raise UserError(
                f"{path}: a document's number {self.measure!r} is beyond all floats ({value})"[:200]
            ) from None

    def _decisions(self, numbering: Numbering, copies: Copies) -> dict[int, list[Decision]]:
        decisions: dict[int, list[Decision]] = {}
        shards = numbering.shard(copies.numbers)
        places = (copies.numbers - numbering.starts[shards]).tolist()
        for shard, place, kept in zip(shards.tolist(), places, copies.kept, strict=True):
            reason = f"{self.reason}-elsewhere" if kept == ELSEWHERE else self.reason
            decisions.setdefault(shard, []).append(Decision(place, reason))
        return decisions

    def _save(self, folder: Path, keys: KeyFiles, numbering: Numbering, copies: Copies) -> None:
        start = 0
        for shard in numbering.shards:
            first, last = int(numbering.starts[shard]), int(numbering.starts[shard + 1])
            stays = np.ones(last - first, bool)
            gone = copies.numbers[(copies.numbers >= first) & (copies.numbers < last)]
            stays[(gone - np.uint64(first)).astype(np.int64)] = False
            rows = slice(start, start + last - first)
            columns = [keys.column(column)[rows][stays] for column in range(keys.columns)]
            write_signatures(folder / f"shard-{shard:05d}{SUFFIX}", self.settings, columns)
            start += last - first


@dataclass
class CopiesStep(_Copies):
    """Drops documents that equal another one once folded, by the 64-bit XXH3 of their UTF-8.

    Two different ones of N are taken for equal with probability below N^2 / 2^65: 0.03 for 10^9.
    """

    @property
    def columns(self) -> int:
        """One key."""
        return 1

    @property
    def settings(self) -> dict[str, Any]:
        """What the key depends on."""
        return {"kind": "exact", "hash": "xxh3_64", "folding": self.folding}

    def keys(self, texts: Sequence[str], verifier: Verifier | None = None) -> NDArray[np.uint64]:
        """The hash of each text."""
        values = [xxhash.xxh3_64_intdigest(text.encode()) for text in texts]
        return np.array(values, np.uint64).reshape(-1, 1)


@dataclass
class NearCopiesStep(_Copies):
    """Drops documents that MinHash-LSH finds similar to another one."""

    hasher: MinHasher = MinHasher()  # noqa: RUF009 - frozen
    verify: float | None = None
    """Only candidates whose signatures agree in this share of their values or more are copies; not with ``against``."""
    reason = "near-copy"

    def __post_init__(self) -> None:
        if self.verify is not None and self.against:
            raise ValueError("verify compares signatures, and the files of against hold only the keys made of them")

    def verifier(self, path: Path) -> Verifier | None:
        """Compares the signatures."""
        return None if self.verify is None else Verifier(path, self.verify)

    @property
    def columns(self) -> int:
        """A key a band."""
        return self.hasher.bands

    @property
    def settings(self) -> dict[str, Any]:
        """What the keys depend on."""
        hasher = self.hasher
        own = {"n": hasher.n, "bands": hasher.bands, "rows": hasher.rows, "seed": hasher.seed}
        return {"kind": "minhash", "unit": "characters", "folding": self.folding, **own}

    def keys(self, texts: Sequence[str], verifier: Verifier | None = None) -> NDArray[np.uint64]:
        """The keys of the bands."""
        signatures = self.hasher.signatures(texts)
        if verifier is not None:
            verifier.append(signatures)
        return self.hasher.keys(signatures)
