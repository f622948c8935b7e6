"""Chunked FP16 sums in NumPy, by their definition: FP16 multiply-adds rounded once, denormals as FPCR.FZ16 has them.

Letters: M rows, N columns, K summed dimension.
"""

from __future__ import annotations

import numpy as np

SMALLEST = 2.0**-14


def flushed(x: np.ndarray) -> np.ndarray:
    """Zero, of its sign, for what is smaller than FP16's smallest normal number."""
    return np.where(np.abs(x) < SMALLEST, np.copysign(0.0, x), x)


def multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """``a * b + c`` of FP16 numbers in FP64, rounded once to FP16.

    The product has 22 bits; FP64 holds the sum too, but where its terms lie more than 2^31 apart, and there the half is
    the larger one's whatever the last bits are.
    """
    return flushed(a * b + c).astype(np.float16).astype(np.float64)


def chunked_sums(a_MK: np.ndarray, b_KN: np.ndarray, chunk: int, start_MN: np.ndarray | float = 0.0) -> np.ndarray:
    """The FP32 sums of the product of two FP16 matrices, chunk by chunk, from ``start_MN``."""
    a, b = (flushed(x.astype(np.float64)) for x in (a_MK, b_KN))
    sums = np.zeros((a.shape[0], b.shape[1]), np.float32) + np.float32(start_MN)
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, a.shape[1], chunk):
            half = np.full(sums.shape, -0.0)
            for p in range(first, min(first + chunk, a.shape[1])):
                half = multiply_add(a[:, p, None], b[None, p], half)
            sums = sums + half.astype(np.float32)
    return sums


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Assert the same bits; a NaN is a NaN."""
    assert actual.dtype == expected.dtype
    bits = np.dtype(f"u{actual.itemsize}")
    equal = (actual.view(bits) == expected.view(bits)) | (np.isnan(actual) & np.isnan(expected))
    assert equal.all(), f"{(~equal).sum()} differ, the first at {np.argwhere(~equal)[0]}"
