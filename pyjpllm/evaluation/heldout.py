"""Held-out loss of a model on documents, in nats a token and in bits a byte of the text.

Every token of every document is scored exactly once, the first one too, and so is the end of the document: the sum is
the length of a code from which the documents can be read back (as the tokenizer gives them), which is what a
compressor's output is as well. Bits per byte does not depend on the tokenizer, loss per token does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pyjpllm.data import Tokenizer
from pyjpllm.distributed import Mesh
from pyjpllm.distributed.collectives import all_reduce
from pyjpllm.errors import UserError
from pyjpllm.evaluation.windows import Window, batches_of, pack, windows_of
from pyjpllm.model import Transformer

BATCHES_AHEAD = 16
"""Batches' worth of windows that are packed together: more packs tighter, fewer hold less text."""


@dataclass(frozen=True)
class HeldOut:
    """What a model makes of a text. Two of them add up to that of both texts."""

    nats: float = 0.0
    """Sum of -ln p over the tokens."""
    tokens: int = 0
    """Tokens scored: those of the text and one end for each document."""
    bytes: int = 0
    """UTF-8 bytes of the text as it was given."""
    documents: int = 0
    read_back_bytes: int = 0
    """UTF-8 bytes of what the tokens decode to. Where this differs from ``bytes``, the tokenizer has changed the text
    (NFKC turns ＡＢＣ into ABC), and the model has not paid for the difference."""
    changed_documents: int = 0
    """Documents that the tokens do not give back exactly."""

    @property
    def loss(self) -> float:
        """Nats a token; NaN when there is no token."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite beyond what a float holds."""
        return math.exp(self.loss) if not self.loss > 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits for each UTF-8 byte of the text as it was given; NaN when there is none."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def bits_per_byte_read_back(self) -> float:
        """Bits for each UTF-8 byte of the text as the tokenizer gives it back."""
        return self.nats / math.log(2) / self.read_back_bytes if self.read_back_bytes else math.nan

    def __add__(self, other: HeldOut) -> HeldOut:
        return HeldOut(*(a + b for a, b in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> tuple[Any, ...]:
        return (self.nats, self.tokens, self.bytes, self.documents, self.read_back_bytes, self.changed_documents)

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON: the sums and the ratios, None for a ratio that does not exist."""
        ratios = {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "bits_per_byte_read_back": self.bits_per_byte_read_back,
        }
        sums = {
            "nats": self.nats,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "documents": self.documents,
            "read_back_bytes": self.read_back_bytes,
            "changed_documents": self.changed_documents,
        }
        return {key: value if math.isfinite(value) else None for key, value in (ratios | sums).items()}


@dataclass(frozen=True)
class Scoring:
    """How documents are laid before the model.

    Args:
        sequence_length: the longest stretch the model reads at a time.
        stride: tokens between the beginnings of two windows of a longer document; None is half the length.
        batch_tokens: about how many tokens a forward pass takes; it changes speed and memory, not the result.
        start_id: the token a document begins after; None is ``tokenizer.eos_id``, which is what models trained here
            have seen before every document. Models trained elsewhere may have had ``tokenizer.bos_id`` there.
    """

    sequence_length: int
    stride: int | None = None
    batch_tokens: int = 8192
    start_id: int | None = None

    def __post_init__(self) -> None:
        if self.sequence_length < 1:
            raise UserError(f"sequence length {self.sequence_length} is not positive")
        if self.stride is not None and not 1 <= self.stride <= self.sequence_length:
            raise UserError(
                f"stride {self.stride} is not between 1 and the sequence length {self.sequence_length}: "
                "with a larger one tokens would be left out"
            )
        if self.batch_tokens < 1:
            raise UserError(f"batch tokens {self.batch_tokens} is not positive")

    @property
    def step(self) -> int:
        """The stride, filled in."""
        return self.stride if self.stride is not None else max(1, self.sequence_length // 2)


def evaluate(
    model: Transformer,
    tokenizer: Tokenizer,
    documents: Iterable[str],
    scoring: Scoring,
    *,
    mesh: Mesh | None = None,
    progress: Callable[[HeldOut], None] | None = None,
) -> HeldOut:
    """Score ``documents`` with ``model``.

    The result does not depend on the batch size or on how documents are packed, beyond rounding, and is the same on
    all ranks. With a ``mesh`` all ranks call it with the same documents; each data-parallel rank scores a part of
    them, and the ranks of a tensor-parallel group work together. ``progress`` is told this rank's own part so far
    after every batch.

    Raises UserError when the tokenizer has more tokens than the model.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {model.config.vocab_size}: "
            "they do not belong together"
        )
    end_id = tokenizer.eos_id
    start_id = end_id if scoring.start_id is None else scoring.start_id
    share = documents if mesh is None else _own(documents, mesh.size("dp"), mesh.rank("dp"))
    total = HeldOut()
    pending: list[Window] = []
    waiting = 0
    rows = max(1, scoring.batch_tokens // scoring.sequence_length)
    limit = BATCHES_AHEAD * rows * scoring.sequence_length

    def flush() -> None:
        nonlocal total, pending, waiting
        for part in _score(model, pending, scoring.sequence_length, rows):
            total += part
            if progress is not None:
                progress(total)
        pending, waiting = [], 0

    was_training = model.training
    model.eval()
    try:
        for text in share:
            ids = tokenizer.encode(text)
            back = tokenizer.decode(ids)
            total += HeldOut(
                bytes=len(text.encode("utf-8")),
                documents=1,
                read_back_bytes=len(back.encode("utf-8")),
                changed_documents=int(back != text),
            )
            for window in windows_of(
                ids,
                start_id=start_id,
                end_id=end_id,
                sequence_length=scoring.sequence_length,
                stride=scoring.step,
            ):
                pending.append(window)
                waiting += len(window)
                if waiting >= limit:
                    flush()
        flush()
    finally:
        model.train(was_training)
    return total if mesh is None else _summed(total, mesh, next(model.parameters()).device)


def evaluate_corpora(
    model: Transformer,
    tokenizer: Tokenizer,
    corpora: Mapping[str, Iterable[str]],
    scoring: Scoring,
    *,
    mesh: Mesh | None = None,
    progress: Callable[[str, HeldOut], None] | None = None,
) -> dict[str, HeldOut]:
    """``evaluate`` for each corpus by its name; ``sum(results.values(), HeldOut())`` is that of all together."""
    results = {}
    for name, documents in corpora.items():

        def tell(part: HeldOut, name: str = name) -> None:
            if progress is not None:
                progress(name, part)

        results[name] = evaluate(model, tokenizer, documents, scoring, mesh=mesh, progress=tell)
    return results


def _own(documents: Iterable[str], ranks: int, rank: int) -> Iterator[str]:
    """This rank's documents: each goes to the rank with the least text so far, as every rank works out by itself."""
    load = [0] * ranks
    for text in documents:
        owner = load.index(min(load))
        load[owner] += len(text) + 1
        if owner == rank:
            yield text


@torch.no_grad()
def _score(model: Transformer, windows: list[Window], sequence_length: int, rows: int) -> Iterator[HeldOut]:
    device = next(model.parameters()).device
    for batch in batches_of(pack(windows, sequence_length), rows, device):
        result = model.loss(
            batch.tokens_BS,
            batch.targets_BS,
            positions_BS=batch.positions_BS,
            document_ids_BS=batch.document_ids_BS,
        )
        yield HeldOut(nats=float(result.loss), tokens=int(result.count))


def _summed(part: HeldOut, mesh: Mesh, device: torch.device) -> HeldOut:
    """The sum over the data-parallel ranks; FP64 holds the counts exactly up to 2**53."""
    values = torch.tensor(part._values(), dtype=torch.float64, device=device)
    all_reduce(values, mesh.group("dp"))
    nats, *counts = values.tolist()
    return HeldOut(nats, *map(int, counts))
