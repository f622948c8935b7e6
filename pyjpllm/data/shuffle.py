"""Permutations that are pure functions of a key, the same on every machine and with every version of NumPy.

`order_of` permutes the documents of an epoch by sorting hashed indices. `scatter` permutes 0 .. size - 1 without a
table, by a Feistel network with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_ROUNDS = 6


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014), element by element."""
    x = x ^ (x >> np.uint64(30))
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> np.uint64(27))
    x = x * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key_of(*parts: int) -> int:
    """A 64-bit key out of non-negative numbers (seed, corpus, epoch, ...), in their order."""
    key = np.array([0x9E3779B97F4A7C15], np.uint64)
    for part in parts:
        key = mix(key * np.uint64(0xD1342543DE82EF95) + np.array([(part + 1) & _MASK], np.uint64))
    return int(key[0])


def order_of(count: int, key: int) -> NDArray[np.int64]:
    """A permutation of 0 .. count - 1, int64 [count]."""
    hashed = mix(np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key))
    return np.argsort(hashed, kind="stable")


def scatter(indices: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Where a permutation of 0 .. size - 1 sends these indices; int64, same shape.

    On each half of the bits of an index a few rounds of hashing; what leaves the range is sent on until it is back.
    """
    if size < 2:
        return indices.copy()
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    out = indices.astype(np.uint64)
    outside = np.ones(out.shape, dtype=bool)
    while outside.any():
        left, right = out[outside] >> np.uint64(half), out[outside] & low
        for turn in range(_ROUNDS):
            left, right = right, left ^ (mix(right + np.uint64(key_of(key, turn))) & low)
        out[outside] = (left << np.uint64(half)) | right
        outside = out >= np.uint64(size)
    return out.astype(np.int64)
