"""Sums of 16-bit integers in NumPy, by the definition in kernels/include/jpllm/gemm.h.

Letters: M rows, N columns, K summed dimension.
"""

from __future__ import annotations

import numpy as np

BLOCK = 512
SMALLEST = 2.0**-126


def flushed(x: np.ndarray) -> np.ndarray:
    """Zero, of its sign, for what is smaller than FP32's smallest normal number."""
    return np.where(np.abs(x) < SMALLEST, np.copysign(0.0, x), x)


def quantised(x_LK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FP64 lines as int64 and their factors [L, 1]: NaN, and zeroes, where one of a line is not finite."""
    finite = np.isfinite(x_LK).all(1, keepdims=True)
    x = np.where(finite, x_LK, 0.0)
    largest = np.abs(x).max(1, keepdims=True, initial=0.0)
    factor = np.ldexp(1.0, np.frexp(largest)[1] - 15)
    factor = np.where(np.rint(largest / factor) > 32767, 2 * factor, factor)
    factor = np.maximum(factor, 2.0**-125)
    return np.rint(flushed(x) / factor).astype(np.int64), np.where(finite, factor, np.nan)


def integer_sums(a_MK: np.ndarray, b_KN: np.ndarray, start_MN: np.ndarray | None = None) -> np.ndarray:
    """The FP32 sums of the product, block by block, from ``start_MN``."""
    a, b = a_MK.astype(np.float64), b_KN.astype(np.float64)
    sums = None if start_MN is None else flushed(start_MN.astype(np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        for first in range(0, a.shape[1], BLOCK):
            qa, sa = quantised(a[:, first : first + BLOCK])
            qb, sb = quantised(b[first : first + BLOCK].T)
            block = flushed((qa @ qb.T) * (sa * sb.T)).astype(np.float32)
            sums = block if sums is None else flushed(sums.astype(np.float64) + block).astype(np.float32)
    return np.zeros((a.shape[0], b.shape[1]), np.float32) if sums is None else sums.astype(np.float32)


def error_bound(a_MK: np.ndarray, b_KN: np.ndarray) -> np.ndarray:
    """What the header states, of finite operands and where no sum overflows."""
    a, b = np.abs(a_MK.astype(np.float64)), np.abs(b_KN.astype(np.float64))
    blocks = -(-a.shape[1] // BLOCK)
    bound = (a.shape[1] / BLOCK + 2) * 2.0**-24 * (a @ b) + 2 * blocks * SMALLEST
    for first in range(0, a.shape[1], BLOCK):
        x, y = a[:, first : first + BLOCK], b[first : first + BLOCK]
        sa, sb = (np.maximum(2.0**-14 * (1 + 2.0**-15) * most, 2.0**-125) for most in (x.max(1), y.max(0)))
        bound += sb / 2 * x.sum(1)[:, None] + sa[:, None] / 2 * y.sum(0) + BLOCK * sa[:, None] * sb / 4
    return bound
