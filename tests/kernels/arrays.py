"""NumPy arrays for the compiled kernels, and what the kernels' tests share.

Letters: M rows, N columns or tokens, K summed dimension, D width, V vocabulary.
"""

from __future__ import annotations

import numpy as np

EPS = float(np.finfo(np.float32).eps) / 2
"""FP32's rounding error, 2^-24."""


def array(a: np.ndarray) -> tuple[int, tuple[int, ...], tuple[int, ...], str, object]:
    """What `pyjpllm._native` takes for an array."""
    strides = tuple(stride // a.itemsize for stride in a.strides)
    return a.__array_interface__["data"][0], a.shape, strides, a.dtype.name, a


def normal(rng: np.random.Generator, *shape: int, order: str = "C", gap: int = 0) -> np.ndarray:
    """Unit-normal FP32: row-major (C) or column-major (F), ``gap`` unused elements between lines, or flipped (R)."""
    if len(shape) == 1:
        return rng.standard_normal(shape[0] + gap).astype(np.float32)[gap:]
    rows, cols = shape
    if order == "F":
        return normal(rng, cols, rows, gap=gap).T
    whole = rng.standard_normal((rows, cols + gap)).astype(np.float32)
    view = whole[:, :cols]
    return view[::-1, ::-1] if order == "R" else view


def within(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray | float) -> None:
    """Assert ``|actual - expected| <= bound`` elementwise; NaN never passes."""
    error = np.abs(actual.astype(np.float64) - expected)
    good = error <= bound
    assert good.all(), f"worst {error.max()} at {np.unravel_index(error.argmax(), error.shape)}, bound {np.max(bound)}"
