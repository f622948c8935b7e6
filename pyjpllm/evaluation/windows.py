"""How documents of any length become rows of one length, each token being scored exactly once.

S tokens of a row   B rows of a batch
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pyjpllm.data import Batch

IGNORE = -100
"""The target of a position that is not scored, as everywhere."""
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A stretch of one document: the model reads ``inputs`` and is scored on those ``targets`` that are not -100."""

    inputs: Ids
    targets: Ids

    def __len__(self) -> int:
        return len(self.inputs)


def windows_of(
    ids: Sequence[int], *, start_id: int, end_id: int | None, sequence_length: int, stride: int
) -> Iterator[Window]:
    """The windows of a document with the tokens ``ids``.

    The text ``t1 .. tn`` is read as ``start t1 .. tn`` and scored on ``t1 .. tn end`` (without ``end`` when that is
    None). A document that is longer than ``sequence_length`` is cut into windows that begin ``stride`` tokens apart;
    each scores only what the one before has not, so every token after the first window sees at least
    ``sequence_length - stride`` tokens before it.
    """
    whole = np.fromiter((start_id, *ids, *(() if end_id is None else (end_id,))), dtype=np.int64)
    length = len(whole) - 1
    scored = 0
    begin = 0
    while scored < length:
        end = min(begin + sequence_length, length)
        targets = whole[begin + 1 : end + 1].copy()
        targets[: scored - begin] = IGNORE
        yield Window(whole[begin:end], targets)
        scored = end
        begin += stride


def pack(windows: Iterable[Window], sequence_length: int) -> list[list[Window]]:
    """Windows put together into rows of at most ``sequence_length`` tokens: longest first, each into the fullest row
    that still has room (best fit decreasing). Nothing is cut."""
    rows: list[list[Window]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for window in sorted(windows, key=len, reverse=True):
        place = bisect_left(room, (len(window), -1))
        if place == len(room):
            free, row = sequence_length, len(rows)
            rows.append([])
        else:
            free, row = room.pop(place)
        rows[row].append(window)
        if free > len(window):
            insort(room, (free - len(window), row))
    return rows


def batches_of(rows: Sequence[list[Window]], rows_per_batch: int, device: torch.device) -> Iterator[Batch]:
    """Rows as batches of tensors on ``device``, rows of like length together, each batch as wide as its longest row.

    ``document_ids_BS`` is None where each row is one window: causality alone keeps the filling out then.
    """
    lengths = [sum(map(len, row)) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]) > 1, -lengths[i]))
    start = 0
    while start < len(order):
        shared = len(rows[order[start]]) > 1
        chosen = [i for i in order[start : start + rows_per_batch] if (len(rows[i]) > 1) == shared]
        yield _batch([rows[i] for i in chosen], max(lengths[i] for i in chosen), shared, device)
        start += len(chosen)


def _batch(rows: list[list[Window]], width: int, shared: bool, device: torch.device) -> Batch:
    shape = (len(rows), width)
    tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    targets = np.full(shape, IGNORE, np.int64)
    documents = np.zeros(shape, np.int64)
    for r, row in enumerate(rows):
        end = 0
        for number, window in enumerate(row):
            here = slice(end, end + len(window))
            tokens[r, here], targets[r, here] = window.inputs, window.targets
            positions[r, here] = np.arange(len(window))
            documents[r, here] = number
            end += len(window)
        documents[r, end:] = len(row)
        positions[r, end:] = np.arange(width - end)
    return Batch(
        tokens_BS=torch.from_numpy(tokens).to(device),
        targets_BS=torch.from_numpy(targets).to(device),
        positions_BS=torch.from_numpy(positions).to(device),
        document_ids_BS=torch.from_numpy(documents).to(device) if shared else None,
    )
