"""The arithmetic of reductions in a fixed order: elementwise, so the bits do not depend on how the data was cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pyjpllm.distributed.hierarchy import Levels

# Reduce this many elements at a time, so that the accumulator stays in the cache.
_BLOCK = 1 << 18

REDUCED_IN_FP32 = frozenset(
    dtype
    for name in ("float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
    if (dtype := getattr(torch, name, None)) is not None
)


def combine(parts: Sequence[torch.Tensor], out: torch.Tensor, kind: str, ranks: int | None = None) -> None:
    """Reduce flat ``parts`` in their order into flat ``out`` (which may be one of them): elementwise, hence the same
    bits however the data was cut. ``ranks``: what an average divides by, where it is not the number of parts."""
    wide = torch.float32 if out.dtype in REDUCED_IN_FP32 else out.dtype
    step = _STEPS[kind]
    # Straight into ``out``, unless it holds a part that is still to be read.
    direct = wide == out.dtype and all(part.data_ptr() != out.data_ptr() for part in parts[2:])
    for start in range(0, out.numel(), _BLOCK):
        target = out[start : start + _BLOCK]
        first, *rest = [part[start : start + _BLOCK] for part in parts]
        total = target if direct else torch.empty(target.shape, dtype=wide)
        if direct and rest and first.dtype == wide:
            step(first, rest.pop(0), out=total)
        else:
            total.copy_(first)
        for block in rest:
            step(total, block.to(wide), out=total)
        if kind == "avg":
            average(total, len(parts) if ranks is None else ranks)
        if not direct:
            target.copy_(total)


def combine_by_level(levels: Levels, parts: Sequence[torch.Tensor], out: torch.Tensor, kind: str) -> None:
    """Reduce all ranks' flat ``parts`` into flat ``out``: the same bits as when each level reduces its own."""
    if levels.nodes == 1:
        combine(parts, out, kind)
        return
    of_nodes = [parts[first : first + levels.width] for first in range(0, levels.size, levels.width)]
    combine([within_node(of_node, kind) for of_node in of_nodes], out, kind, levels.size)


def within_node(parts: Sequence[torch.Tensor], kind: str) -> torch.Tensor:
    """The flat ``parts`` of a node's ranks reduced, for `combine` with those of other nodes."""
    partial = torch.empty(parts[0].shape, dtype=between(parts[0].dtype, kind))
    combine(parts, partial, "sum" if kind == "avg" else kind)
    return partial


def between(dtype: torch.dtype, kind: str) -> torch.dtype:
    """The type of what a node's ranks have reduced: wide enough that it is exact, or as exact as FP32."""
    return torch.float32 if dtype in REDUCED_IN_FP32 and kind not in ("min", "max") else dtype


_STEPS: dict[str, Callable[..., Any]] = {
    "sum": torch.add,
    "avg": torch.add,
    "product": torch.mul,
    "min": torch.minimum,
    "max": torch.maximum,
    "band": torch.bitwise_and,
    "bor": torch.bitwise_or,
    "bxor": torch.bitwise_xor,
}


def average(x: torch.Tensor, ranks: int) -> None:
    """Divide the sum ``x`` by ``ranks``, in place; whole numbers towards zero."""
    if x.dtype.is_floating_point or x.dtype.is_complex:
        x.div_(ranks)
    else:
        x.div_(ranks, rounding_mode="trunc")
