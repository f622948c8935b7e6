"""Initial weights: every value a pure function of the seed, the parameter's name and its index in the whole tensor.

So the weights do not depend on how they are split over ranks, nor, since only exactly rounded operations are used
(+ - * / sqrt of IEEE 754), on the machine or the NumPy that computes them.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt
import torch

from pyjpllm.model.transformer import Transformer
from pyjpllm.parallel import Layout, pieces_of

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

# Values made at a time: the arrays of a chunk stay in a core's cache.
CHUNK = 1 << 14


def _mix(words: Words) -> Words:
    """SplitMix64's finalizer, in place (Steele, Lea and Flood, 2014)."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def _log(x: Floats) -> Floats:
    """Natural logarithm of numbers in (0, 1), to 1e-15, by the series of atanh."""
    mantissa, exponent = np.frexp(x)
    low = (mantissa < math.sqrt(0.5)).astype(np.float64)
    mantissa += mantissa * low
    exponent = exponent - low
    s = (mantissa - 1) / (mantissa + 1)
    s2 = s * s
    total = np.full_like(s, 1 / 25)
    for denominator in range(23, 0, -2):
        total *= s2
        total += 1 / denominator
    result: Floats = exponent * math.log(2) + 2 * s * total
    return result


def _cos_quarter(turn: Floats) -> Floats:
    """cos(pi/2 * turn) for turns in [0, 1), to 1e-15, as 1 - 2 sin(pi/4 turn)**2."""
    x = turn * (math.pi / 4)
    x2 = x * x
    total = np.ones_like(x)
    for n in range(16, 0, -2):
        total *= x2
        total *= -1 / (n * (n + 1))
        total += 1
    total *= x
    return 1 - 2 * (total * total)


def normal_at(seed: int, name: str, indices: Words) -> Floats:
    """Standard normal numbers at ``indices`` of the stream named by ``seed`` and ``name``: FP64, the indices' shape.

    Two 64-bit words an index by SplitMix64, made normal by Box and Muller (1958).
    """
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    first, second = (np.uint64(int.from_bytes(digest[at : at + 8], "little")) for at in (0, 8))
    with np.errstate(over="ignore"):
        radius_words = _mix(indices * np.uint64(0x9E3779B97F4A7C15) + first)
        angle_words = _mix(radius_words ^ second)
    uniform = ((radius_words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    turn = (angle_words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    sign = 1.0 - 2.0 * (angle_words & np.uint64(1)).astype(np.float64)
    return np.sqrt(-2 * _log(uniform)) * _cos_quarter(turn) * sign


def normal_piece(seed: int, name: str, layout: Layout, std: float, dtype: torch.dtype) -> torch.Tensor:
    """The rank's piece of the normal tensor ``name``, of standard deviation ``std``, on the CPU.

    A piece is R runs of W values that stand next to each other in the whole tensor, the same distance apart or not.
    """
    piece = torch.empty(layout.local_shape, dtype=dtype)
    if not piece.numel():
        return piece
    starts_R, width = _runs(layout)
    runs_RW = piece.view(len(starts_R), width)
    columns = min(width, CHUNK)
    rows = max(1, CHUNK // columns)
    for row in range(0, len(starts_R), rows):
        for column in range(0, width, columns):
            offsets = np.arange(column, min(column + columns, width), dtype=np.uint64)
            indices = starts_R[row : row + rows, None] + offsets
            values = torch.from_numpy(normal_at(seed, name, indices) * std)
            runs_RW[row : row + rows, column : column + columns] = values
    return piece


def _runs(layout: Layout) -> tuple[Words, int]:
    """Where in the whole tensor each run of the piece starts, and how long the runs are."""
    shape, local, slices = layout.global_shape, layout.local_shape, layout.slices
    last_split = max((axis for axis in range(len(shape)) if local[axis] != shape[axis]), default=0)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    starts: Words = np.array([slices[last_split][0] * strides[last_split]], dtype=np.uint64)
    for axis in range(last_split):
        here = np.arange(*slices[axis], dtype=np.uint64) * np.uint64(strides[axis])
        before = math.prod(local[:axis]), math.prod(local[axis + 1 : last_split])
        starts = starts + np.tile(np.repeat(here, before[1]), before[0])
    return starts, local[last_split] * strides[last_split]


def initialize(model: Transformer, seed: int) -> None:
    """Fill ``model``: norms 1, biases 0, matrices normal with standard deviation ``config.init_std``.

    The outputs of attention, feed-forward and experts, which add to the residual stream, have it divided by
    ``sqrt(2 num_layers)`` (Radford et al., 2019). On the meta device there is nothing to fill.
    """
    config = model.config
    with torch.no_grad():
        for name, piece, layout in pieces_of(model):
            if piece.is_meta:
                continue
            if name.endswith(".bias"):
                piece.zero_()
            elif piece.ndim == 1:
                piece.fill_(1)
            else:
                residual = name.endswith(("attention.o.weight", ".down.weight"))
                std = config.init_std / math.sqrt(2 * config.num_layers) if residual else config.init_std
                piece.copy_(normal_piece(seed, name, layout, std, piece.dtype))
