"""Micro-batches by position: sample n of a run is a pure function of (seed, corpora, n), whatever the layout.

N samples of this rank in a step   S tokens of a sequence   B sequences of a micro-batch

A global batch that starts at sample c is the samples c .. c + G - 1 in blend order; data-parallel rank r of D takes
the r-th of D equal runs of them and cuts it into micro-batches. So a step has the same samples for any D and any
micro-batch, and the position is one number.

The global rank 0 alone reads index files, and hands what they say to the ranks that read tokens. Those are the first
rank of each tensor-parallel group; the others get the samples from it. A thread reads one step ahead; it touches no
communication.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyjpllm.config.schema import Config, Corpus
from pyjpllm.data.batch import Batch, positions_of
from pyjpllm.data.blend import Blend
from pyjpllm.data.encode import stats_path
from pyjpllm.data.indexed import Index, bin_path, read_index
from pyjpllm.data.packing import IGNORE, PackedCorpus, Windows, samples_of
from pyjpllm.data.tokenizer import Tokenizer
from pyjpllm.distributed.agreement import on_first_rank
from pyjpllm.distributed.collectives import broadcast
from pyjpllm.distributed.mesh import AXES, Mesh
from pyjpllm.errors import UserError, nearest_divisor

Split = Literal["train", "valid"]
T = TypeVar("T")


class Samples:
    """The samples of a split by their number: the blend of its corpora.

    In training the corpora are blended by their weights and never end. Held-out corpora are blended by their lengths,
    so that each is read once in order and the first samples stand for all; past their end samples count nothing.
    """

    def __init__(self, corpora: Sequence[PackedCorpus], blend: Blend, limit: int | None) -> None:
        self.corpora = corpora
        self.blend = blend
        self.limit = limit

    def take(self, start: int, count: int) -> Windows:
        """Samples ``start`` .. ``start + count - 1``."""
        real = count if self.limit is None else max(0, min(count, self.limit - start))
        length = self.corpora[0].sequence_length
        tokens, targets = np.zeros((count, length), np.int32), np.full((count, length), IGNORE, np.int32)
        documents = np.zeros((count, length), np.int32)
        if real:
            which, local = self.blend.take(start, real)
            for number, corpus in enumerate(self.corpora):
                rows = np.flatnonzero(which == number)
                if len(rows):
                    windows = corpus.take(local[rows])
                    tokens[rows], targets[rows] = windows.tokens_NS, windows.targets_NS
                    documents[rows] = windows.document_ids_NS
        return Windows(tokens, targets, documents)

    def close(self) -> None:
        """Close the token files."""
        for corpus in self.corpora:
            corpus.close()


class Loader:
    """This rank's micro-batches of each global batch. Made by ``build_loader``."""

    def __init__(
        self,
        samples: Samples | None,
        mesh: Mesh,
        *,
        num_samples: int,
        sequence_length: int,
        document_mask: bool,
        global_batch: int,
        micro_batch: int,
        device: torch.device,
        endless: bool,
        share: Callable[[Tensor], Tensor],
    ) -> None:
        """``samples`` is None on ranks that do not read. ``num_samples``: those of one pass over the corpora."""
        self.num_samples = num_samples
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self._samples = samples
        self._mesh = mesh
        self._per_rank = global_batch // mesh.size("batch")
        self._sequence_length = sequence_length
        self._document_mask = document_mask
        self._device = device
        self._endless = endless
        self._share_of = share
        # One thread makes all samples, so that a corpus needs no lock.
        self._worker = None if samples is None else ThreadPoolExecutor(1, thread_name_prefix="jpllm-data")
        self._ahead: tuple[int, Future[Tensor]] | None = None

    def step(self, consumed: int) -> list[Batch]:
        """This rank's micro-batches of the global batch that starts at sample ``consumed``.

        Collective over the tensor-parallel group. Raises UserError when a token file turns out to be damaged.
        """
        if consumed < 0:
            raise ValueError(f"consumed = {consumed} is below 0")
        packed = self._receive(consumed)
        tokens_NS, targets_NS = packed[0].long(), packed[1].long()
        documents_NS = packed[2].long() if self._document_mask else None
        if documents_NS is None:
            places = torch.arange(self._sequence_length, device=packed.device)
            positions_NS = places.expand(self._per_rank, -1)
        else:
            positions_NS = positions_of(documents_NS)
            documents_NS = self._share_of(documents_NS)
        tokens_NS, targets_NS, positions_NS = map(self._share_of, (tokens_NS, targets_NS, positions_NS))
        return [
            Batch(
                tokens_NS[rows],
                targets_NS[rows],
                positions_NS[rows],
                None if documents_NS is None else documents_NS[rows],
            )
            for rows in (slice(at, at + self.micro_batch) for at in range(0, self._per_rank, self.micro_batch))
        ]

    def _receive(self, consumed: int) -> Tensor:
        """int32 [2 or 3, N, S]: tokens, targets and, with a document mask, document ids; the same over tp."""
        if self._worker is not None:
            packed = self._read(consumed).to(self._device)
        else:
            shape = (3 if self._document_mask else 2, self._per_rank, self._sequence_length)
            packed = torch.empty(shape, dtype=torch.int32, device=self._device)
        return broadcast(packed, self._mesh.group("tp"))

    def _read(self, consumed: int) -> Tensor:
        """What was read ahead, or read now; then the step after it is begun."""
        assert self._worker is not None
        if self._ahead is not None and self._ahead[0] == consumed:
            future = self._ahead[1]
        else:
            future = self._worker.submit(self._produce, consumed)
        self._ahead = None
        packed = future.result()
        following = consumed + self.global_batch
        if self._endless or following < self.num_samples:
            self._ahead = (following, self._worker.submit(self._produce, following))
        return packed

    def _produce(self, consumed: int) -> Tensor:
        assert self._samples is not None
        windows = self._samples.take(consumed + self._mesh.rank("batch") * self._per_rank, self._per_rank)
        parts = [windows.tokens_NS, windows.targets_NS]
        if self._document_mask:
            parts.append(windows.document_ids_NS)
        return torch.from_numpy(np.stack(parts))

    def close(self) -> None:
        """End the reading thread and close the files."""
        if self._worker is not None:
            self._worker.shutdown(wait=True, cancel_futures=True)
        if self._samples is not None:
            self._samples.close()


@dataclass(frozen=True)
class _Plan:
    """What rank 0 found, and all ranks know: the size of each corpus and the token that ends a document."""

    eos_id: int
    samples: list[int]
    shapes: list[tuple[str, str, int]]  # prefix, dtype, documents


def build_loader(
    config: Config,
    mesh: Mesh,
    vocab_size: int,
    split: Split = "train",
    *,
    share: Callable[[Tensor], Tensor] = lambda whole_NS: whole_NS,
) -> Loader:
    """The loader of ``data.train`` or ``data.valid``; collective over all ranks of ``mesh``.

    ``vocab_size``: token ids are checked against it. ``share``: the tokens of sequences [N, S] that are this rank's,
    where ranks share sequences. Raises the same UserError on every rank for a missing or damaged
    file, a corpus shorter than a sample, ids beyond the vocabulary, or batch sizes that do not divide.
    """
    data, train = config.data, config.train
    _check_batches(train.global_batch, train.micro_batch, mesh.size("batch"))
    indices: list[Index] = []

    def open_corpora() -> _Plan:
        corpora = _corpora(config, split)
        tokenizer = Tokenizer.load(data.tokenizer)
        if tokenizer.vocab_size > vocab_size:
            raise UserError(
                f"data.tokenizer = {data.tokenizer!r}: its {tokenizer.vocab_size} ids do not fit the model's "
                f"vocabulary of {vocab_size}; write model.vocab_size = {tokenizer.vocab_size}, or 0"
            )
        for corpus in corpora:
            indices.append(read_index(corpus.path))
            _check_beginning(indices[-1], vocab_size)
            _check_tokenizer(corpus.path, tokenizer)
        samples = [samples_of(index, data.sequence_length, whole=split == "train") for index in indices]
        shapes = [(index.prefix, index.dtype.str, index.num_documents) for index in indices]
        return _Plan(tokenizer.eos_id, samples, shapes)

    plan = on_first_rank(open_corpora, mesh.world_group)
    device = torch.device("cuda", torch.cuda.current_device()) if train.device == "cuda" else torch.device("cpu")
    samples = None
    if mesh.is_first("tp"):
        if not indices:
            indices = [_empty_index(*shape) for shape in plan.shapes]
        indices = [_share(index, mesh, device) for index in indices]
        packed = [
            PackedCorpus(
                index,
                sequence_length=data.sequence_length,
                vocab_size=vocab_size,
                eos_id=plan.eos_id,
                document_mask=data.document_mask,
                seed=train.seed,
                corpus=number,
                shuffle=split == "train",
            )
            for number, index in enumerate(indices)
        ]
        if split == "train":
            samples = Samples(packed, Blend([corpus.weight for corpus in data.train]), None)
        else:
            samples = Samples(packed, Blend(plan.samples), sum(plan.samples))
    return Loader(
        samples,
        mesh,
        num_samples=sum(plan.samples),
        sequence_length=data.sequence_length,
        document_mask=data.document_mask,
        global_batch=train.global_batch,
        micro_batch=train.micro_batch,
        device=device,
        endless=split == "train",
        share=share,
    )


def _corpora(config: Config, split: Split) -> list[Corpus]:
    if split == "train":
        return config.data.train
    if not config.data.valid:
        raise UserError("data.valid is empty: there is no held-out text to evaluate on")
    for place, corpus in enumerate(config.data.valid):
        if corpus.weight != 1.0:
            raise UserError(
                f"data.valid.{place}.weight = {corpus.weight}: held-out corpora are read once, each whole; "
                "weights are for data.train"
            )
    return config.data.valid


def _check_batches(global_batch: int, micro_batch: int, dp: int) -> None:
    if global_batch % dp:
        raise UserError(
            f"train.global_batch = {global_batch} does not divide by the {dp} data-parallel ranks; "
            f"nearest: {max(1, round(global_batch / dp)) * dp}"
        )
    if (global_batch // dp) % micro_batch:
        raise UserError(
            f"train.micro_batch = {micro_batch} does not divide the {global_batch // dp} sequences of a rank "
            f"(train.global_batch = {global_batch} over {dp} ranks); nearest: "
            f"{nearest_divisor(micro_batch, global_batch // dp)}"
        )


def _check_beginning(index: Index, vocab_size: int, limit: int = 1 << 20) -> None:
    """Refuse a corpus of another tokenizer before the run starts: look at its first tokens (the rest when read)."""
    with open(bin_path(index.prefix), "rb") as stream:
        ids = np.fromfile(stream, dtype=index.dtype, count=limit)
    if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < vocab_size):
        wrong = int(ids.max()) if int(ids.max()) >= vocab_size else int(ids.min())
        raise UserError(
            f"{bin_path(index.prefix)}: token id {wrong} is outside the vocabulary of {vocab_size}; "
            "was it encoded with another tokenizer?"
        )


def _check_tokenizer(prefix: str, tokenizer: Tokenizer) -> None:
    """Refuse a corpus that says it was encoded with another tokenizer; one without `PREFIX.json` says nothing."""
    path = stats_path(prefix)
    if not path.is_file():
        return
    try:
        fingerprint = json.loads(path.read_bytes()).get("tokenizer")
    except (ValueError, AttributeError):
        raise UserError(f"{path}: not what 'jpllm tokenizer encode' wrote; encode the text again") from None
    if fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"{bin_path(prefix)} was encoded with another tokenizer than data.tokenizer = "
            f"{str(tokenizer.model_path)!r} (says {path.name}); encode the text again"
        )


def _empty_index(prefix: str, dtype: str, documents: int) -> Index:
    sizes: NDArray[np.int32] = np.empty(documents, np.int32)
    return Index(prefix, np.dtype(dtype), sizes, np.empty(documents, np.int64))


def _share(index: Index, mesh: Mesh, device: torch.device) -> Index:
    """Rank 0's sizes and pointers, to the first rank of every tensor-parallel group: axis by axis."""
    parts = [torch.from_numpy(part).to(device) for part in (index.sizes, index.pointers)]
    for place, axis in enumerate(AXES[:-1]):
        if all(mesh.is_first(later) for later in AXES[place + 1 :]):
            for part in parts:
                broadcast(part, mesh.group(axis))
    sizes, pointers = (part.cpu().numpy() for part in parts)
    return Index(index.prefix, index.dtype, sizes, pointers)
