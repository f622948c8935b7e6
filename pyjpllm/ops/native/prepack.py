"""Weights of linear layers packed once for many products (`_native.pack`), where they do not change between calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from pyjpllm.ops.native.tensors import _native, array, check_storage
from pyjpllm.ops.sums import math_of

MOST_ROWS = 128
"""With more rows in a product packing is too small a part of it (docs/kernels.md has figures)."""


class _Packed(NamedTuple):
    weight: Tensor  # keeps the address that it is known by
    version: int
    math: tuple[str, int]
    memory: Tensor


_Key = tuple[int, torch.Size, tuple[int, ...], torch.dtype]
_packed: dict[_Key, _Packed] = {}


def _key(weight: Tensor) -> _Key:
    return weight.data_ptr(), weight.shape, weight.stride(), weight.dtype


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def pays(dtype: torch.dtype, rows: int) -> bool:
    """Whether a product with so many rows packs its weight, at a cost worth saving."""
    if math_of(dtype)[0] != "exact":  # such products always pack it
        least = 1
    else:  # up to 4 rows read a weight where it lies; FP32 ones do so at little cost with more
        least = 17 if dtype == torch.float32 else 5
    return least <= rows <= MOST_ROWS


def packed_weight(weight_OI: Tensor, rows: int) -> _native.Array | None:
    """The weight as packed by `prepacked`, where it is and that pays for so many rows."""
    if not _packed or not pays(weight_OI.dtype, rows):
        return None
    found = _packed.get(_key(weight_OI))
    if found is None or found.version != _version(weight_OI) or found.math != math_of(weight_OI.dtype):
        return None
    return array(found.memory)


@contextmanager
def prepacked(weights: Iterable[Tensor], rows: int) -> Iterator[None]:
    """See `pyjpllm.ops.api.prepacked`. Not for two threads at once."""
    before = dict(_packed)
    try:
        for weight_OI in weights:
            check_storage("prepacked", weight=weight_OI)
            if weight_OI.ndim != 2:
                raise ValueError(f"prepacked: weights [O, I] are needed, got {tuple(weight_OI.shape)}")
            if not pays(weight_OI.dtype, rows):
                continue
            weight, math = weight_OI.detach(), math_of(weight_OI.dtype)
            b, dtype = array(weight.t()), str(weight.dtype).removeprefix("torch.")
            memory = torch.empty(_native.packed_bytes(b, dtype, *math), dtype=torch.uint8)
            _native.pack(b, array(memory), dtype, torch.get_num_threads(), *math)
            _packed[_key(weight)] = _Packed(weight, _version(weight_OI), math, memory)
        yield
    finally:
        _packed.clear()
        _packed.update(before)
