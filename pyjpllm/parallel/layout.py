"""Which piece of a parameter a rank holds, and how heads and rows are dealt out over ranks.

H query heads, K key and value heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import distributed as dist
from torch import nn

from pyjpllm.config.check import heads_fit
from pyjpllm.errors import UserError

_ATTRIBUTE = "_pyjpllm_layout"


def split_range(n: int, parts: int, index: int) -> tuple[int, int]:
    """The ``index``-th of ``parts`` contiguous ranges that cover ``range(n)``.

    The first ``n % parts`` ranges are one longer than the others; with ``n < parts`` the last ranges are empty.
    """
    if n < 0 or not 0 <= index < parts:
        raise ValueError(f"no part {index} of {parts} of a range of {n}")
    base, extra = divmod(n, parts)
    start = index * base + min(index, extra)
    return start, start + base + (index < extra)


def split_sizes(n: int, parts: int) -> list[int]:
    """The lengths of all the ranges of :func:`split_range`."""
    base, extra = divmod(n, parts)
    return [base + (index < extra) for index in range(parts)]


@dataclass(frozen=True)
class Layout:
    """The piece of a global parameter that this rank holds.

    Attributes:
        global_shape: the shape of the whole parameter.
        slices: one ``(start, stop)`` a dimension: the piece is ``whole[start_0:stop_0, start_1:stop_1, ...]``.
        copies: how many ranks hold this very piece, data-parallel replicas apart.
        grad_group: the ranks whose gradients of this piece are parts of its gradient and must be summed before use;
            None when each rank's own gradient is already the whole.
        pipeline_copies: how many of the ``copies`` are one behind the other in a pipeline: 2 for a tied embedding,
            whose ``grad_group`` then are the two.
        replicas: the axis of the mesh along which ranks hold this piece for other tokens.
    """

    global_shape: tuple[int, ...]
    slices: tuple[tuple[int, int], ...]
    copies: int = 1
    grad_group: dist.ProcessGroup | None = None
    pipeline_copies: int = 1
    replicas: Literal["replicas", "expert_replicas"] = "replicas"

    def __post_init__(self) -> None:
        if len(self.slices) != len(self.global_shape) or any(
            not 0 <= start <= stop <= size for (start, stop), size in zip(self.slices, self.global_shape, strict=False)
        ):
            raise ValueError(f"slices {self.slices} do not lie in a tensor of shape {self.global_shape}")
        if self.copies < 1:
            raise ValueError(f"copies is {self.copies}, at least 1 rank holds a piece")

    @classmethod
    def whole(cls, shape: Sequence[int], *, copies: int = 1, grad_group: dist.ProcessGroup | None = None) -> Layout:
        """The layout of a parameter that is not split."""
        return cls(tuple(shape), tuple((0, size) for size in shape), copies, grad_group)

    @classmethod
    def split(
        cls,
        shape: Sequence[int],
        dim: int,
        piece: tuple[int, int],
        *,
        copies: int = 1,
        grad_group: dist.ProcessGroup | None = None,
    ) -> Layout:
        """The layout of rows ``piece`` of dimension ``dim``, all of the others."""
        slices = tuple(piece if axis == dim else (0, size) for axis, size in enumerate(shape))
        return cls(tuple(shape), slices, copies, grad_group)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of the piece."""
        return tuple(stop - start for start, stop in self.slices)

    @property
    def index(self) -> tuple[slice, ...]:
        """The piece as an index: ``whole[layout.index]``."""
        return tuple(slice(start, stop) for start, stop in self.slices)


def set_layout(param: torch.Tensor, layout: Layout) -> None:
    """Attach ``layout`` to a parameter; its shape must be the piece's."""
    if tuple(param.shape) != layout.local_shape:
        raise ValueError(f"a parameter of shape {tuple(param.shape)} is no piece of shape {layout.local_shape}")
    setattr(param, _ATTRIBUTE, layout)


def layout_of(param: torch.Tensor) -> Layout:
    """The layout attached to ``param``; a parameter without one is whole and held once."""
    layout: Layout | None = getattr(param, _ATTRIBUTE, None)
    return Layout.whole(param.shape) if layout is None else layout


def piece_of(param: torch.Tensor) -> tuple[torch.Tensor, Layout]:
    """This rank's values of a parameter, as memory without autograd, and where they lie in the whole one: with ZeRO-3 a
    shard of what its layout says."""
    layout = layout_of(param)
    shard: Any = param
    if not hasattr(shard, "device_mesh"):  # a DTensor has one; to import its class takes a second
        return param.detach(), layout
    (placement,), ranks = shard.placements, shard.device_mesh.size()
    with torch.no_grad():
        local = shard.to_local()
    first, end = layout.slices[placement.dim]
    length = -(-(end - first) // ranks)  # as torch.chunk has it: the last ones may be shorter, or empty
    start = min(first + shard.device_mesh.get_local_rank() * length, end)
    slices = list(layout.slices)
    slices[placement.dim] = (start, min(start + length, end))
    return local, replace(layout, slices=tuple(slices))


def pieces_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor, Layout]]:
    """Every parameter's piece on this rank by name, as memory to read or to fill, and where it lies in the whole."""
    for name, param in module.named_parameters():
        yield name, *piece_of(param)


class Place(Protocol):
    """A rank among those that share something: `TensorParallel`, `ContextParallel`."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...


class HeadRanges(NamedTuple):
    """The heads of one tensor-parallel rank: query heads ``q``, kv heads ``kv``, each held by ``kv_copies`` ranks."""

    q: tuple[int, int]
    kv: tuple[int, int]
    kv_copies: int


def head_ranges(num_heads: int, num_kv_heads: int, place: Place, field: str = "parallel.tensor") -> HeadRanges:
    """Deal attention heads out over ranks; ``field`` is what to name in an error.

    With at least as many kv heads as ranks, kv heads are split as evenly as they go and query heads follow their kv
    head (Ainslie et al., 2023: query heads ``j*H/K .. (j+1)*H/K`` share kv head ``j``). With fewer, each kv head is
    held by ``size/K`` ranks, which share its query heads evenly.

    Raises:
        UserError: the heads cannot be dealt out over that many ranks.
    """
    if num_heads % num_kv_heads:
        raise UserError(
            f"model.num_heads = {num_heads} is no multiple of model.num_kv_heads = {num_kv_heads}: "
            "each kv head serves equally many query heads"
        )
    per_kv = num_heads // num_kv_heads
    size, rank = place.size, place.rank
    if size <= num_kv_heads:
        kv = split_range(num_kv_heads, size, rank)
        return HeadRanges((kv[0] * per_kv, kv[1] * per_kv), kv, 1)
    if not heads_fit(num_heads, num_kv_heads, size):
        fitting = [parts for parts in range(1, num_heads + 1) if heads_fit(num_heads, num_kv_heads, parts)]
        best = min(fitting, key=lambda parts: (abs(parts - size), parts))
        raise UserError(
            f"{field} = {size} cannot share model.num_heads = {num_heads} and "
            f"model.num_kv_heads = {num_kv_heads}; the nearest that can is {best}"
        )
    copies = size // num_kv_heads
    head, replica = divmod(rank, copies)
    mine = per_kv // copies
    first = head * per_kv + replica * mine
    return HeadRanges((first, first + mine), (head, head + 1), copies)
