"""From keys to decisions: documents that share a key are connected, and of each component the best one is kept.

The keys are on disk, 8 bytes a band and document; what a rank holds besides is in ``memory_formula``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.dedup.components import Pairs, components, stars
from pyjpllm.corpus.dedup.keyfiles import ROUND_RECORDS, KeyFiles, groups, rounds, select, shared
from pyjpllm.corpus.dedup.routing import ELSEWHERE, Numbering, owners_by_hash, pack, route
from pyjpllm.corpus.dedup.verification import Verifier, bucket_pairs
from pyjpllm.corpus.exchange import Exchange

Known = Callable[[int], Iterable[NDArray[np.uint64]]]
"""The keys of one column in corpora compared against: this rank's share of them, in pieces."""


def memory_formula(documents: int, dropped: int) -> int:
    """Bytes that a rank with so many documents takes at most, beyond what the process has anyway.

    24 a document (number, score, what waits to be written), 96 a record of a round, 96 for a document that is dropped
    and the one it is a copy of, and 200 for the decision about it.
    """
    return 24 * documents + 96 * min(documents, ROUND_RECORDS) + (96 + 200) * dropped


@dataclass(frozen=True)
class Copies:
    """The documents of this rank that another one stands for."""

    numbers: NDArray[np.uint64]
    """Ascending."""
    kept: NDArray[np.uint64]
    """Which document is kept for each; ``ELSEWHERE``: one of a corpus compared against."""


def find_copies(
    keys: KeyFiles,
    numbering: Numbering,
    scores: NDArray[np.float64],
    exchange: Exchange,
    known: Known | None = None,
    round_records: int = ROUND_RECORDS,
    verifier: Verifier | None = None,
) -> Copies:
    """Documents that share a key in any column with another, but for the best of each component; collective.

    ``keys`` and ``scores``: of this rank's documents, in the order of ``numbering.mine()``. The greatest score is kept,
    of equal ones the document that comes first; a document ``known`` from elsewhere stands for all that it is
    connected to. With a ``verifier`` (and then nothing ``known``) only what it calls similar is connected.
    """
    numbers = numbering.mine()
    found = np.empty((0, 2), np.uint64)
    turns = rounds(keys.rows, exchange, round_records)
    for column in range(keys.columns):
        for turn in range(turns):
            ordered = _meet(keys.column(column), numbers, turn, turns, known and known(column), exchange)
            if verifier is None:
                pairs = _connected(ordered)
            else:
                pairs = verifier.similar(_candidates(ordered), numbering, numbers, exchange)
            found = np.concatenate([found, pairs])
            if len(found) > round_records // 4:
                found = stars(found)
    return _keep_best(components(found, exchange), numbering, numbers, scores, exchange)


def _meet(
    keys: NDArray[np.uint64],
    numbers: NDArray[np.uint64],
    turn: int,
    turns: int,
    known: Iterable[NDArray[np.uint64]] | None,
    exchange: Exchange,
) -> NDArray[np.uint64]:
    """(key, number) of the keys that this rank owns in this turn and that come more than once, by the key."""
    rows = select(keys, turn, turns)
    sent = [pack(keys[rows], numbers[rows])]
    for piece in known or ():
        mine = piece[select(piece, turn, turns)]
        sent.append(pack(mine, np.full(len(mine), ELSEWHERE)))
    outgoing = np.concatenate(sent)
    records = route(outgoing, owners_by_hash(outgoing[:, 0], exchange), exchange)
    return shared(records)


def _connected(ordered: NDArray[np.uint64]) -> Pairs:
    """(number, least number with the same key)."""
    starts, sizes = groups(ordered[:, 0])
    if len(starts) == 0:
        return ordered
    least = np.repeat(np.minimum.reduceat(ordered[:, 1], starts), sizes)
    apart = ordered[:, 1] != least
    return pack(ordered[apart, 1], least[apart])


def _candidates(ordered: NDArray[np.uint64]) -> Pairs:
    """The pairs that a verifier is asked about; the same ones for any number of ranks."""
    ordered = ordered[np.lexsort((ordered[:, 1], ordered[:, 0]))]
    return bucket_pairs(ordered[:, 1], *groups(ordered[:, 0]))


def _keep_best(
    connected: Pairs,
    numbering: Numbering,
    numbers: NDArray[np.uint64],
    scores: NDArray[np.float64],
    exchange: Exchange,
) -> Copies:
    """To every component its best document, and to the homes of the others the news."""
    roots = np.unique(connected[:, 1])
    members = np.concatenate([connected, pack(roots, roots)])
    members = members[members[:, 0] != ELSEWHERE]
    members = np.unique(route(members, numbering.home(members[:, 0]), exchange), axis=0)
    mine = scores[np.searchsorted(numbers, members[:, 0])]
    asked = pack(members[:, 1], members[:, 0], mine.view(np.uint64))
    asked = route(asked, (asked[:, 0] % np.uint64(exchange.size)).astype(np.int64), exchange)
    order = np.lexsort((asked[:, 1], -np.ascontiguousarray(asked[:, 2]).view(np.float64), asked[:, 0]))
    root, member = asked[order, 0], asked[order, 1]
    starts, sizes = groups(root)
    best = np.repeat(np.where(root[starts] == ELSEWHERE, ELSEWHERE, member[starts]), sizes)
    news = pack(member, best)[member != best]
    news = route(news, numbering.home(news[:, 0]), exchange)
    news = news[np.argsort(news[:, 0])]
    return Copies(news[:, 0], news[:, 1])
