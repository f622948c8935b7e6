"""Text files into token files, in parallel over processes; the output does not depend on their number.

One process reads documents and writes tokens, in order; the workers get batches of texts and give back ids. They are
spawned, not forked: a fork of a process that holds MPI or threads is not safe.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import connection
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus import expand_inputs, read_documents
from pyjpllm.data.indexed import IndexedWriter, bin_path, idx_path, token_dtype
from pyjpllm.data.tokenizer import Tokenizer
from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write

_BATCH_CHARACTERS = 1 << 18
_BATCH_DOCUMENTS = 4096


@dataclass(frozen=True)
class EncodeStats:
    """What an encoded corpus holds; `PREFIX.json` says the same."""

    documents: int = 0
    tokens: int = 0
    """With the token that ends each document."""
    characters: int = 0
    bytes: int = 0
    """UTF-8 bytes of the text as it was read."""
    eos_id: int = -1
    vocab_size: int = 0
    tokenizer: str = ""
    """SHA-256 of the tokenizer's model."""

    @property
    def characters_per_token(self) -> float:
        """How well the tokenizer fits the text; the ends of documents are not counted."""
        return self.characters / max(1, self.tokens - self.documents)


@dataclass(frozen=True)
class Encoded:
    """Texts as ids: those of all texts one after another, each with eos, and how many each has."""

    ids: NDArray[np.generic]
    sizes: NDArray[np.int64]
    characters: int
    bytes: int


def encode_files(
    inputs: str | PathLike[str] | Iterable[str | PathLike[str]],
    tokenizer_path: str | PathLike[str],
    out_prefix: str | PathLike[str],
    *,
    workers: int | None = None,
    progress: Callable[[EncodeStats], None] | None = None,
) -> EncodeStats:
    """Encode all documents of ``inputs`` and write ``OUT.bin``, ``OUT.idx`` and ``OUT.json``, whole or not at all.

    Each document becomes the tokens of its text and ``eos``. ``workers`` processes encode (None: one for each CPU that
    this process may use; 1: this process itself). ``progress`` is called now and then with what is done so far.
    Raises UserError for inputs that cannot be read, and when they hold no document.
    """
    prefix = Path(out_prefix)
    tokenizer = Tokenizer.load(Path(tokenizer_path))
    files = expand_inputs(inputs)
    targets = {path.resolve() for path in (bin_path(prefix), idx_path(prefix), stats_path(prefix))}
    for file in files:
        if file.resolve() in targets:
            raise UserError(f"{file}: is an input and would be overwritten")
    count = _processes(workers)
    stats = _nothing_yet(tokenizer)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(prefix)
    with IndexedWriter(prefix, tokenizer.vocab_size) as writer:
        with contextlib.closing(_encoded(_batches(files), tokenizer, count)) as results:
            for result in results:
                writer.add_many(result.ids, result.sizes)
                stats = _with(stats, result)
                if progress is not None:
                    progress(stats)
        if stats.documents == 0:
            raise UserError(f"no document in {', '.join(map(str, files))}")
        stats_path(prefix).unlink(missing_ok=True)
    with atomic_write(stats_path(prefix)) as temporary:
        temporary.write_text(json.dumps(asdict(stats), indent=2) + "\n")
    return stats


def count_tokens(
    inputs: str | PathLike[str] | Iterable[str | PathLike[str]],
    tokenizer_path: str | PathLike[str],
    *,
    workers: int | None = None,
) -> EncodeStats:
    """What ``encode_files`` would say of ``inputs``, without writing anything."""
    tokenizer = Tokenizer.load(Path(tokenizer_path))
    files = expand_inputs(inputs)
    stats = _nothing_yet(tokenizer)
    with contextlib.closing(_encoded(_batches(files), tokenizer, _processes(workers))) as results:
        for result in results:
            stats = _with(stats, result)
    return stats


def _processes(workers: int | None) -> int:
    count = workers if workers is not None else len(os.sched_getaffinity(0))
    if count < 1:
        raise UserError(f"workers = {count}: at least 1")
    return count


def _nothing_yet(tokenizer: Tokenizer) -> EncodeStats:
    return EncodeStats(eos_id=tokenizer.eos_id, vocab_size=tokenizer.vocab_size, tokenizer=tokenizer.fingerprint)


def _with(stats: EncodeStats, more: Encoded) -> EncodeStats:
    return replace(
        stats,
        documents=stats.documents + len(more.sizes),
        tokens=stats.tokens + len(more.ids),
        characters=stats.characters + more.characters,
        bytes=stats.bytes + more.bytes,
    )


def stats_path(prefix: str | PathLike[str]) -> Path:
    """``PREFIX.json``."""
    return Path(f"{os.fspath(prefix)}.json")


def remove_leftovers(prefix: Path) -> None:
    """Delete the temporary files of encoders of this prefix that were killed (their process is gone)."""
    for target in (bin_path(prefix), idx_path(prefix), stats_path(prefix)):
        for leftover in target.parent.glob(f".{target.name}.*.tmp"):
            owner = leftover.name.rsplit(".", 2)[1]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                leftover.unlink(missing_ok=True)


def _batches(files: Sequence[Path]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for document in read_documents(files):
        batch.append(document.text)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encoded(batches: Iterator[list[str]], tokenizer: Tokenizer, workers: int) -> Generator[Encoded, None, None]:
    """The batches encoded, in their order; a few for each worker are on the way at a time."""
    if workers == 1:
        for batch in batches:
            yield encode_texts(tokenizer, batch)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (tokenizer.model_path,))
    waiting: deque[Future[Encoded]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(_encode_here, batch))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise RuntimeError("a worker process ended while it encoded text (out of memory?)") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> Encoded:
    """The ids of ``texts``, with eos behind each."""
    ids: list[int] = []
    sizes: list[int] = []
    for text in texts:
        before = len(ids)
        ids += tokenizer.encode(text)
        ids.append(tokenizer.eos_id)
        sizes.append(len(ids) - before)
    return Encoded(
        np.array(ids, dtype=token_dtype(tokenizer.vocab_size)),
        np.array(sizes, np.int64),
        sum(map(len, texts)),
        sum(len(text.encode()) for text in texts),
    )


_tokenizer: Tokenizer | None = None


def _start_worker(model_path: Path) -> None:
    """Load the tokenizer once a process, and end with the parent even if that is killed."""
    global _tokenizer
    _tokenizer = Tokenizer.load(model_path)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _encode_here(texts: list[str]) -> Encoded:
    assert _tokenizer is not None
    return encode_texts(_tokenizer, texts)
