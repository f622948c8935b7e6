"""Connected components of pairs that are spread over ranks.

Large-star and small-star (R. Kiveris, S. Lattanzi, V. Mirrokni, V. Rastogi, S. Vassilvitskii, "Connected Components in
MapReduce and Beyond", 2014), in turns until nothing changes: every number then hangs on the least of its component.
Numbers are spread over the ranks by their hash; a rank holds only the pairs of its numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.dedup.keyfiles import groups
from pyjpllm.corpus.dedup.routing import pack, route
from pyjpllm.corpus.exchange import Alone, Exchange

Pairs = NDArray[np.uint64]
"""[n, 2]: (number, a number it is connected to)."""


def components(pairs: Pairs, exchange: Exchange) -> Pairs:
    """(number, least of its component) for every number that has a smaller one in its component, each once.

    ``pairs``: this rank's, in any order, with repetitions, and of (x, x) too. Returns those whose number this rank owns
    (``number % size``), ascending.
    """
    pairs = stars(pairs) if exchange.size > 1 else pairs  # what one rank knows shrinks to a forest first
    pairs = _unique(pairs[pairs[:, 0] != pairs[:, 1]])
    before = None
    while True:
        pairs = _small_star(_large_star(pairs, exchange), exchange)
        now = sum(exchange.all_gather(_digest(pairs)))
        if now == before:
            return pairs
        before = now


def stars(pairs: Pairs) -> Pairs:
    """``components`` of the pairs of one rank alone: as many pairs as numbers at most."""
    return components(pairs, Alone())


def _large_star(pairs: Pairs, exchange: Exchange) -> Pairs:
    """Each number connects its larger neighbours to the least of all its neighbours and itself."""
    both = _by_number(np.concatenate([pairs, pairs[:, ::-1]]), exchange)
    starts, sizes = groups(both[:, 0])
    if len(starts) == 0:
        return both
    least = np.minimum(np.minimum.reduceat(both[:, 1], starts), both[starts, 0])
    larger = both[:, 1] > both[:, 0]
    return _unique(pack(both[:, 1], np.repeat(least, sizes))[larger])


def _small_star(pairs: Pairs, exchange: Exchange) -> Pairs:
    """Each number connects its smaller neighbours and itself to the least of them."""
    down = _by_number(pack(pairs.max(axis=1), pairs.min(axis=1)), exchange)
    starts, sizes = groups(down[:, 0])
    joined = down
    if len(starts):  # a rank without pairs takes part in the exchange below as well
        least = np.minimum.reduceat(down[:, 1], starts)
        joined = np.concatenate([pack(down[:, 1], np.repeat(least, sizes)), pack(down[starts, 0], least)])
    return _by_number(joined[joined[:, 0] != joined[:, 1]], exchange)


def _by_number(pairs: Pairs, exchange: Exchange) -> Pairs:
    """The pairs at the owners of their first numbers, sorted, each once."""
    return _unique(route(pairs, (pairs[:, 0] % np.uint64(exchange.size)).astype(np.int64), exchange))


def _unique(pairs: Pairs) -> Pairs:
    ordered = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    if len(ordered) == 0:
        return ordered
    fresh: NDArray[np.bool_] = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    return ordered[fresh]


def _digest(pairs: Pairs) -> int:
    """A number of the set of pairs, the same in any order: it stays the same when nothing changes."""
    mixed = (pairs[:, 0] * np.uint64(0x9E3779B97F4A7C15)) ^ (pairs[:, 1] + np.uint64(1)) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return int((mixed ^ (mixed >> np.uint64(32))).sum(dtype=np.uint64)) + (len(pairs) << 64)
