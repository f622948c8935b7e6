"""Types of the compiled module of csrc/text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def character_class(code: int) -> int: ...
def measure_names() -> list[str]: ...
def words_by_script(text: str) -> NDArray[np.int32]: ...

class Measures:
    def __init__(self, names: Sequence[str], stop_words: Sequence[str] = ...) -> None: ...
    def measure(self, text: str, words: NDArray[np.int32] | None = None) -> list[float]: ...

class WordLists:
    def __init__(self, lists: Sequence[Sequence[str]]) -> None: ...
    def count(self, text: str) -> list[tuple[int, int]]: ...
    def find(self, text: str) -> list[list[tuple[int, int]]]: ...

def minhash(
    texts: list[str],
    n: int,
    multipliers: NDArray[np.uint32],
    offsets: NDArray[np.uint32],
    isa: str = "",
) -> NDArray[np.uint32]: ...
def minhash_units(
    units: NDArray[np.uint32],
    ends: NDArray[np.int64],
    n: int,
    multipliers: NDArray[np.uint32],
    offsets: NDArray[np.uint32],
    isa: str = "",
) -> NDArray[np.uint32]: ...
def minhash_isas() -> list[str]: ...
def gram_hashes(texts: list[str], n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]: ...
def windows(texts: list[str], k: int, w: int) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int64]]: ...
def linear_scores(
    texts: list[str], weights: NDArray[np.float32], bias: NDArray[np.float64], most: int
) -> NDArray[np.float64]: ...
def linear_train(
    texts: list[str],
    labels: NDArray[np.int32],
    weights: NDArray[np.float32],
    squares: NDArray[np.float32],
    bias: NDArray[np.float64],
    bias_squares: NDArray[np.float64],
    most: int,
    rate: float,
) -> float: ...
def log2_probabilities(
    texts: list[str], slots: NDArray[np.uint64], order: int, backoff: float
) -> NDArray[np.float64]: ...

class NgramCounter:
    def __init__(self, order: int) -> None: ...
    def add(self, text: str) -> None: ...
    @property
    def grams(self) -> int: ...
    @property
    def characters(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    def table(self, min_count: int) -> tuple[NDArray[np.uint64], int, float]: ...

class SudachiWords:
    def __init__(
        self,
        dictionary: NDArray[np.uint8],
        categories: NDArray[np.uint32],
        changes: Sequence[tuple[str, str]],
        long_vowels: str,
        left_brackets: str,
        right_brackets: str,
        longest_reading: int,
        unknown: Sequence[tuple[int, bool, bool, int, Sequence[tuple[int, int, int, int]]]],
        single: tuple[int, int, int, int],
        shortest_katakana: int,
        joined_katakana: int,
    ) -> None: ...
    def cut(self, text: str) -> NDArray[np.int32]: ...
