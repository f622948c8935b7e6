"""The classifier's scores and training, and the language model, in slow and plain Python."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

MASK = (1 << 64) - 1


def mixed(text: str) -> int:
    """The mixed polynomial hash of an n-gram."""
    h = 0
    for c in text:
        h = (h * 0x9E3779B97F4A7C15 + ord(c) + 1) & MASK
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & MASK
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 & MASK
    return h ^ h >> 33


def buckets(text: str, most: int, bits: int) -> list[int]:
    """The bucket of every n-gram."""
    return [
        mixed(text[i : i + n]) >> (64 - bits) for i in range(len(text)) for n in range(1, min(most, len(text) - i) + 1)
    ]


def scores(text: str, weights: np.ndarray, bias: np.ndarray, most: int) -> list[float]:
    """Bias and mean weight of each output, added up from left to right."""
    grams = buckets(text, most, int(weights.shape[0]).bit_length() - 1)
    found = []
    for o in range(weights.shape[1]):
        total = 0.0
        for gram in grams:
            total += float(weights[gram, o])
        found.append(float(bias[o]) + total / max(1, len(grams)))
    return found


def train(
    texts: Sequence[str], labels: Sequence[int], outputs: int, bits: int, most: int, rate: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """One pass of AdaGrad from nothing: weights, bias, the sum of the losses."""
    weights, squares = (np.zeros((1 << bits, outputs), np.float32) for _ in range(2))
    bias, bias_squares = np.zeros(outputs), np.zeros(outputs)
    losses = 0.0

    def step(values: np.ndarray, sums: np.ndarray, at: tuple[int, ...], gradient: float) -> None:
        total = float(sums[at]) + gradient * gradient
        sums[at] = total
        values[at] = float(values[at]) - rate * gradient / math.sqrt(total + 1e-6)

    for text, label in zip(texts, labels, strict=True):
        z = scores(text, weights, bias, most)
        if outputs == 1:
            z = [0.0, z[0]]
        powers = [math.exp(value - max(z)) for value in z]
        p = [power / sum(powers) for power in powers]
        losses -= math.log(p[label])
        gradients = [value - (number == label) for number, value in enumerate(p)]
        if outputs == 1:
            gradients = gradients[1:]
        for o, gradient in enumerate(gradients):
            step(bias, bias_squares, (o,), gradient)
        grams = buckets(text, most, bits)
        for gram in grams:
            for o, gradient in enumerate(gradients):
                step(weights, squares, (gram, o), gradient / len(grams))
    return weights, bias, losses


class WittenBell:
    """p(w | h) by the formula, from counts of strings."""

    def __init__(self, texts: Sequence[str], order: int, min_count: int) -> None:
        self.order = order
        counts = Counter(
            text[i - n + 1 : i + 1] for text in texts for i in range(len(text)) for n in range(1, min(order, i + 1) + 1)
        )
        self.total: dict[str, int] = defaultdict(int)
        self.types: dict[str, int] = defaultdict(int)
        for gram, count in counts.items():
            self.total[gram[:-1]] += count
            self.types[gram[:-1]] += 1
        self.kept = {gram: count for gram, count in counts.items() if len(gram) <= 2 or count >= min_count}
        self.held: dict[str, int] = defaultdict(int)
        for gram, count in self.kept.items():
            self.held[gram[:-1]] += count

    def probability(self, character: str, context: str) -> float:
        """Of a character behind a context of at most order - 1 characters."""
        p = 1 / 1112064
        for n in range(min(self.order - 1, len(context)) + 1):
            h = context[len(context) - n :]
            whole = self.total.get(h, 0) + self.types.get(h, 0)
            if whole == 0:
                if n == 0:
                    continue
                break
            p = self.kept.get(h + character, 0) / whole + (whole - self.held.get(h, 0)) / whole * p
        return p

    def log2(self, text: str) -> float:
        """Of the probability of a text."""
        return sum(math.log2(self.probability(c, text[max(0, i - self.order + 1) : i])) for i, c in enumerate(text))
