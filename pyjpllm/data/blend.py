"""The weighted blend of corpora: which corpus, and which of its samples, is sample n of the run.

The k-th sample (k = 0, 1, ...) of a corpus of weight w is due at the time (k + 1/2) / w. Samples come in the order of
their due times, and in the order of the corpora where those are equal. So a position in the blend is one number, no
state is kept, and sample n is found in closed form: how many samples of corpus j come before sample (i, k) is

    #{k' : (2k' + 1) W_i  <  (2k + 1) W_j}      ("<=" for j < i)      = floor((floor(x / W_i) + 1) / 2)

with W the weights brought to integers and x = (2k + 1) W_j (less one for "<"). All arithmetic is exact. Any n first
samples hold corpus i about n w_i / sum(w) times: off by at most 1/2 + (corpora / 2) w_i / sum(w).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


class Blend:
    """The order in which the samples of weighted corpora are taken."""

    def __init__(self, weights: Sequence[float | int | Fraction]) -> None:
        """``weights``: relative shares, above 0. A float means the decimal number that it prints as."""
        if not weights:
            raise ValueError("a blend needs at least one corpus")
        exact = [w if isinstance(w, Fraction) else Fraction(str(w)) for w in weights]
        if min(exact) <= 0:
            raise ValueError(f"weights must be above 0: {list(weights)}")
        scale = math.lcm(*(w.denominator for w in exact))
        integers = [int(w * scale) for w in exact]
        divisor = math.gcd(*integers)
        self.weights: tuple[int, ...] = tuple(w // divisor for w in integers)
        self._total = sum(self.weights)
        # The due time (2k + 1) / (2 W_i) over the common denominator 2 * period is (2k + 1) * interval_i.
        period = math.lcm(*self.weights)
        self._intervals = [period // w for w in self.weights]

    def rank(self, corpus: int, k: int) -> int:
        """The n at which sample ``k`` of ``corpus`` is taken."""
        mine, before = self.weights[corpus], 0
        for other, weight in enumerate(self.weights):
            x = (2 * k + 1) * weight - (0 if other < corpus else 1)
            before += k if other == corpus else (x // mine + 1) // 2
        return before

    def counts(self, n: int) -> list[int]:
        """How many of the first ``n`` samples come from each corpus."""
        return [self._count(corpus, n) for corpus in range(len(self.weights))]

    def _count(self, corpus: int, n: int) -> int:
        """The smallest k with rank(corpus, k) >= n; rank grows with k and is k W / W_i to within the corpora."""
        guess, slack = n * self.weights[corpus] // self._total, len(self.weights) + 1
        low, high = max(0, guess - slack), guess + slack
        while low < high:
            middle = (low + high) // 2
            if self.rank(corpus, middle) >= n:
                high = middle
            else:
                low = middle + 1
        return low

    def take(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Samples ``start`` .. ``start + count - 1``: their corpora and their indices in those, int64 [count] each."""
        first, last = self.counts(start), self.counts(start + count)
        due = sorted(
            ((2 * k + 1) * interval, corpus, k)
            for corpus, interval in enumerate(self._intervals)
            for k in range(first[corpus], last[corpus])
        )
        corpora = np.fromiter((corpus for _, corpus, _ in due), np.int64, count)
        return corpora, np.fromiter((k for _, _, k in due), np.int64, count)
