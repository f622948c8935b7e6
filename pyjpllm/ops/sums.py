"""How products of layers and the loss are summed where the backend has a choice (`native`); `precision.math`."""

from __future__ import annotations

from functools import partial

import torch

from pyjpllm.errors import UserError, did_you_mean
from pyjpllm.ops.registry import Choice

MATHS = ("exact", "fp16-chunk", "int16")
CHUNKS = (16, 32, 64, 128)

_current = ("exact", 32)


def current_math() -> tuple[str, int]:
    """The name in force and its chunk of steps."""
    return _current


def math_of(dtype: torch.dtype, *, integers: bool = True) -> tuple[str, int]:
    """The name and chunk for products of tensors of one type, where there are such of ``integers``."""
    name, _ = _current
    taken = integers if name == "int16" else dtype == torch.float16
    return _current if taken else ("exact", 32)


class use_math(Choice):  # noqa: N801 - reads as a verb, as `use_backend` does
    """Choose for the whole process from now on; as a context manager, until the end of the block.

    ``exact``: FP32 sums. ``fp16-chunk``: FP16 multiply-adds over ``chunk`` (16, 32, 64 or 128) products at a time,
    whose sum is then added to an FP32 one (docs/kernels.md). It is for products of FP16 tensors: a layer that is kept
    in another type, for its accuracy, is summed in FP32 all the same. ``int16``: operands of any type rounded to 16-bit
    integers, 512 steps of a row or column with a power of two of their own, whose products are summed exactly, then in
    FP32. It is for layers, experts included; the loss is summed in FP32 all the same. Raises UserError for an unknown
    name or chunk.
    """

    def __init__(self, name: str, chunk: int = 32) -> None:
        if name not in MATHS:
            raise UserError(f"unknown math {name!r}{did_you_mean(name, MATHS)}")
        if chunk not in CHUNKS:
            nearest = min(CHUNKS, key=lambda known: abs(known - chunk))
            raise UserError(f"math {name}: the chunk must be 16, 32, 64 or 128, is {chunk}; nearest: {nearest}")
        if name != "fp16-chunk" and chunk != 32:
            raise UserError(f"math {name} has no chunk; leave {chunk} out, or choose fp16-chunk")
        super().__init__(partial(_choose, _current))
        _choose((name, chunk))


def _choose(math: tuple[str, int]) -> None:
    global _current
    _current = math
