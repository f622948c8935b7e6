"""Samples of S + 1 tokens, cut from the documents of a corpus laid one after another.

N samples   S tokens of a sequence

In each epoch the documents are shuffled and joined; sample j covers the tokens [j S, j S + S + 1) of that (neighbours
share one token: the last target of one is the first input of the next), and the samples are shuffled once more, so
that the pieces of a long document do not come in a row. What is left at the end of an epoch, under S tokens, is left
out. Sample n is in epoch n // samples_per_epoch. All of it is a function of (seed, corpus, n).

A held-out corpus is read once in the order of its documents; its last sample is filled up with positions that are
not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyjpllm.data.indexed import Index, TokenFile, idx_path
from pyjpllm.data.shuffle import key_of, order_of, scatter
from pyjpllm.errors import UserError

IGNORE = -100
"""The target of a position that is not counted in the loss."""


@dataclass(frozen=True)
class Windows:
    """Samples as arrays: ``tokens_NS`` and ``targets_NS`` int32 (-100 not counted), ``document_ids_NS`` int32.

    ``document_ids_NS`` counts the documents of a row from 0.
    """

    tokens_NS: NDArray[np.int32]
    targets_NS: NDArray[np.int32]
    document_ids_NS: NDArray[np.int32]


class PackedCorpus:
    """The samples of one corpus."""

    def __init__(
        self,
        index: Index,
        *,
        sequence_length: int,
        vocab_size: int,
        eos_id: int,
        document_mask: bool,
        seed: int,
        corpus: int = 0,
        shuffle: bool = True,
    ) -> None:
        """``corpus`` is its place in the blend; two corpora of one run are shuffled differently.

        ``eos_id`` is the token that ends a document, -1 for none. Raises UserError when the corpus is shorter than
        one sample.
        """
        self.index = index
        self.sequence_length = sequence_length
        self.eos_id = eos_id
        self.document_mask = document_mask
        self.shuffle = shuffle
        self._key = key_of(seed, corpus)
        self._file = TokenFile(index, vocab_size)
        self.samples_per_epoch = samples_of(index, sequence_length, whole=shuffle)
        self._epoch = -1
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)
        self._ends: NDArray[np.int64] = np.zeros(0, np.int64)

    def take(self, samples: NDArray[np.int64]) -> Windows:
        """The samples of these numbers, in this order. Raises UserError for an id outside the vocabulary."""
        rows = len(samples)
        size = (rows, self.sequence_length + 1)
        tokens, documents = np.zeros(size, np.int64), np.full(size, -1, np.int64)
        epochs = samples // self.samples_per_epoch
        for epoch in np.unique(epochs).tolist():
            self._enter(epoch)
            chosen = np.flatnonzero(epochs == epoch)
            places = samples[chosen] - epoch * self.samples_per_epoch
            if self.shuffle:
                places = scatter(places, self.samples_per_epoch, key_of(self._key, epoch, 1))
            starts = places * self.sequence_length
            firsts = np.searchsorted(self._ends, starts, side="right")
            for row, start, first in zip(chosen.tolist(), starts.tolist(), firsts.tolist(), strict=True):
                self._fill(tokens[row], documents[row], start, first)
        return cut(tokens, documents, eos_id=self.eos_id, document_mask=self.document_mask)

    def _enter(self, epoch: int) -> None:
        """Lay out the documents of an epoch: their order, and where each one ends in the joined text."""
        if epoch == self._epoch:
            return
        count = self.index.num_documents
        self._order = order_of(count, key_of(self._key, epoch, 0)) if self.shuffle else np.arange(count)
        self._ends = np.cumsum(self.index.sizes[self._order], dtype=np.int64)
        self._epoch = epoch

    def _fill(self, tokens: NDArray[np.int64], documents: NDArray[np.int64], start: int, place: int) -> None:
        """Read one row: the joined text from token ``start``, which lies in the ``place``-th document of the order."""
        filled, wanted = 0, len(tokens)
        while filled < wanted and place < len(self._order):
            document = int(self._order[place])
            end = int(self._ends[place])
            count = min(wanted - filled, end - start - filled)
            offset = int(self.index.sizes[document]) - (end - start - filled)
            if count:
                tokens[filled : filled + count] = self._file.read(document, offset, count)
                documents[filled : filled + count] = place
            filled, place = filled + count, place + 1

    def close(self) -> None:
        """Close the token file."""
        self._file.close()


def samples_of(index: Index, sequence_length: int, *, whole: bool) -> int:
    """Samples of one pass over a corpus; ``whole`` leaves out a last one that is not full.

    Raises UserError when there is not even one.
    """
    tokens = index.num_tokens
    samples = (tokens - 1) // sequence_length if whole else -(-(tokens - 1) // sequence_length)
    if samples < 1:
        needed = sequence_length + 1 if whole else 2
        hint = f" (data.sequence_length = {sequence_length}, and one more for the last target)" if whole else ""
        raise UserError(f"{idx_path(index.prefix)}: {tokens} tokens are shorter than one sample of {needed}{hint}")
    return samples


def cut(tokens: NDArray[np.int64], documents: NDArray[np.int64], *, eos_id: int, document_mask: bool) -> Windows:
    """Inputs, targets and document ids out of rows of S + 1 tokens and the documents they are from (-1: filling).

    With ``document_mask``, the token that ends a document (``eos_id``) is also what the next one begins with: as an
    input it belongs to the next document, whose first token is its target. So every token is predicted once, the
    first of a document from ``eos`` alone, which is what generation starts from. Where a document does not end in
    ``eos_id``, its last token has no target.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:].copy()
    here, following = documents[:, :-1], documents[:, 1:]
    if document_mask:
        starts_next = (here != following) & (inputs == eos_id) & (following >= 0)
        owner = np.where(starts_next, following, here)
        targets[owner != following] = IGNORE
    else:
        owner = here
    targets[following < 0] = IGNORE
    ids = np.zeros(owner.shape, np.int64)
    np.cumsum(owner[:, 1:] != owner[:, :-1], axis=1, out=ids[:, 1:])
    return Windows(inputs.astype(np.int32), targets.astype(np.int32), ids.astype(np.int32))
