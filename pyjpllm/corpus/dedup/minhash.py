"""MinHash signatures of texts, and the band keys under which similar ones meet.

A signature is one value a hash function: the least over the text's grams (A. Broder, "On the resemblance and
containment of documents", 1997). Two texts agree in a value with a probability that is their sets' Jaccard similarity.
The hash functions are in kernels/text/minhash.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from pyjpllm import _text


@dataclass(frozen=True)
class MinHasher:
    """Signatures of ``bands`` x ``rows`` values over n-grams."""

    n: int = 5
    """Characters (or words) of a gram. A text of fewer is one gram, an empty one has none."""
    bands: int = 14
    rows: int = 8
    seed: int = 0
    """Of the hash functions: signatures of different seeds do not meet."""

    def __post_init__(self) -> None:
        if min(self.n, self.bands, self.rows) < 1:
            raise ValueError(f"n {self.n}, bands {self.bands}, rows {self.rows}: at least 1 each")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed {self.seed}: from 0 to 2^64 - 1")

    def signatures(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """[texts, bands * rows] over character n-grams."""
        return _text.minhash(list(texts), self.n, *self._functions())

    def signatures_of_words(self, texts: Sequence[Sequence[str]]) -> NDArray[np.uint32]:
        """[texts, bands * rows] over n-grams of words that are cut already; a word counts by its 32-bit hash."""
        known: dict[str, int] = {}
        units: list[int] = []
        ends = np.empty(len(texts), np.int64)
        for index, words in enumerate(texts):
            for word in words:
                value = known.get(word)
                if value is None:
                    value = known[word] = xxhash.xxh32_intdigest(word.encode())
                units.append(value)
            ends[index] = len(units)
        return _text.minhash_units(np.array(units, np.uint32), ends, self.n, *self._functions())

    def keys(self, signatures: NDArray[np.uint32]) -> NDArray[np.uint64]:
        """[texts, bands] of [texts, bands * rows]: two texts share a key where all values of the band are equal.

        Different bands with equal keys cannot be told by chance alone: 2^-64 a pair.
        """
        values = signatures.reshape(len(signatures), self.bands, self.rows).astype(np.uint64)
        keys = np.full((len(signatures), self.bands), _SEED, np.uint64)
        for row in range(self.rows):
            keys = _mix(keys + values[:, :, row])
        return keys

    def _functions(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Multipliers (odd) and offsets: SplitMix64's numbers from the seed, of which the upper halves are taken."""
        count = self.bands * self.rows
        steps = np.arange(1, 2 * count + 1, dtype=np.uint64) * _SEED + np.uint64(self.seed)
        drawn = (_mix(steps) >> np.uint64(32)).astype(np.uint32)
        return drawn[:count] | np.uint32(1), drawn[count:]


_SEED = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
