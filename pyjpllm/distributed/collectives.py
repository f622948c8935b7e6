"""Collectives as the floors above use them: plain, without autograd, and nothing at all when ``group`` is None.

They use only what both mpi4py and gloo (and nccl) can do; where gloo lacks a call, the same result is made of others.
Dimension letters: none; ``dim`` says along which dimension tensors are cut or joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pyjpllm.distributed import compat

T = TypeVar("T")

_REDUCE_OPS = {
    "sum": dist.ReduceOp.SUM,
    "avg": dist.ReduceOp.AVG,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
    "product": dist.ReduceOp.PRODUCT,
}


def _is_gloo(group: dist.ProcessGroup) -> bool:
    return str(dist.get_backend(group)) == "gloo"


class _AverageWork:
    """gloo has no AVG: divide once the sum has arrived."""

    def __init__(self, work: Any, tensor: torch.Tensor, count: int) -> None:
        self._work, self._tensor, self._count = work, tensor, count

    def wait(self) -> bool:
        if self._work is not None:
            self._work.wait()
            self._tensor.div_(self._count)
            self._work = None
        return True

    def is_completed(self) -> bool:
        return self._work is None or bool(self._work.is_completed())


def all_reduce(
    tensor: torch.Tensor, group: dist.ProcessGroup | None, op: str = "sum", async_op: bool = False
) -> Any | None:
    """Reduce ``tensor`` in place over ``group``: "sum", "avg", "max", "min" or "product".

    With ``async_op`` returns a Work: the tensor is valid after its ``wait()``. Returns None when there is nothing
    to wait for.
    """
    if group is None:
        return None
    if op == "avg" and _is_gloo(group):
        work = dist.all_reduce(tensor, dist.ReduceOp.SUM, group=group, async_op=True)
        average = _AverageWork(work, tensor, group.size())
        if async_op:
            return average
        average.wait()
        return None
    return dist.all_reduce(tensor, _REDUCE_OPS[op], group=group, async_op=async_op)


def all_gather(
    tensor: torch.Tensor, group: dist.ProcessGroup | None, dim: int = 0, sizes: Sequence[int] | None = None
) -> torch.Tensor:
    """Join the ranks' tensors along ``dim``. ``sizes``: every rank's length along ``dim`` when they are not equal."""
    if group is None:
        return tensor
    world = group.size()
    piece = tensor.movedim(dim, 0).contiguous()
    if sizes is None or len(set(sizes)) == 1:
        out = piece.new_empty((world * piece.shape[0], *piece.shape[1:]))
        compat.all_gather_single(out, piece, group=group)
    elif _is_gloo(group):  # gloo wants equal shapes: pad to the longest
        longest = max(sizes)
        padded = piece.new_zeros((longest, *piece.shape[1:]))
        padded[: piece.shape[0]] = piece
        full = piece.new_empty((world * longest, *piece.shape[1:]))
        compat.all_gather_single(full, padded, group=group)
        rows = full.view(world, longest, *piece.shape[1:])
        out = torch.cat([rows[rank, :size] for rank, size in enumerate(sizes)])
    else:
        out = piece.new_empty((sum(sizes), *piece.shape[1:]))
        dist.all_gather(list(torch.split(out, list(sizes))), piece, group=group)
    return out.movedim(0, dim)


def reduce_scatter(
    tensor: torch.Tensor, group: dist.ProcessGroup | None, dim: int = 0, sizes: Sequence[int] | None = None
) -> torch.Tensor:
    """Sum the ranks' tensors and keep this rank's piece along ``dim``.

    ``sizes``: every rank's length along ``dim`` when they are not equal; else ``dim`` must divide by the ranks.
    """
    if group is None:
        return tensor
    world, rank = group.size(), group.rank()
    full = tensor.movedim(dim, 0).contiguous()
    if sizes is None:
        if full.shape[0] % world:
            raise ValueError(f"dimension {dim} of {tuple(tensor.shape)} does not divide by {world} ranks; give sizes")
        sizes = [full.shape[0] // world] * world
    if _is_gloo(group):
        if full.data_ptr() == tensor.data_ptr():
            full = full.clone()
        dist.all_reduce(full, group=group)
        out = torch.split(full, list(sizes))[rank].clone()
    elif len(set(sizes)) == 1:
        out = full.new_empty((sizes[rank], *full.shape[1:]))
        compat.reduce_scatter_single(out, full, group=group)
    else:
        out = full.new_empty((sizes[rank], *full.shape[1:]))
        dist.reduce_scatter(out, list(torch.split(full, list(sizes))), group=group)
    return out.movedim(0, dim)


def start_reduce_scatter(tensor: torch.Tensor, group: dist.ProcessGroup) -> tuple[torch.Tensor, Any]:
    """Sum the ranks' flat ``tensor``, which divides by them: this rank's piece, valid after the Work's ``wait()``.

    ``tensor`` must stay as it is until then, and is undefined after it.
    """
    if _is_gloo(group):
        work = dist.all_reduce(tensor, group=group, async_op=True)
        return tensor.chunk(group.size())[group.rank()], work
    out = tensor.new_empty(tensor.numel() // group.size())
    return out, compat.reduce_scatter_single(out, tensor, group=group, async_op=True)


def start_all_gather(whole: torch.Tensor, piece: torch.Tensor, group: dist.ProcessGroup) -> Any:
    """Join the ranks' flat ``piece`` in ``whole``, of which it may be this rank's range; a Work to wait for."""
    return compat.all_gather_single(whole, piece, group=group, async_op=True)


def start_all_to_all(out: torch.Tensor, tensor: torch.Tensor, group: dist.ProcessGroup) -> Any:
    """Equal pieces of flat ``tensor`` to the ranks in turn, theirs into ``out`` in rank order; a Work to wait for."""
    # As bytes: gloo has no 16-bit types here.
    return dist.all_to_all_single(out.view(torch.uint8), tensor.view(torch.uint8), group=group, async_op=True)


def all_to_all(
    tensor: torch.Tensor,
    group: dist.ProcessGroup | None,
    output_sizes: Sequence[int] | None = None,
    input_sizes: Sequence[int] | None = None,
) -> torch.Tensor:
    """Send consecutive pieces of dimension 0 to the ranks in turn and join what they send, in rank order.

    ``input_sizes`` and ``output_sizes``: rows for and from every rank; None: equal pieces.
    """
    if group is None:
        return tensor
    piece = tensor.contiguous()
    rows = piece.shape[0] if output_sizes is None else sum(output_sizes)
    out = piece.new_empty((rows, *piece.shape[1:]))
    dist.all_to_all_single(
        out,
        piece,
        None if output_sizes is None else list(output_sizes),
        None if input_sizes is None else list(input_sizes),
        group=group,
    )
    return out


def broadcast(tensor: torch.Tensor, group: dist.ProcessGroup | None, src: int = 0) -> torch.Tensor:
    """Copy ``tensor`` of the rank ``src`` (counted in ``group``) into everyone's ``tensor``, and return it."""
    if group is not None:
        dist.broadcast(tensor, group=group, group_src=src)
    return tensor


def broadcast_object(obj: T, group: dist.ProcessGroup | None, src: int = 0) -> T:
    """The picklable ``obj`` of the rank ``src`` of ``group``, on every rank."""
    if group is None:
        return obj
    box: list[Any] = [obj]
    dist.broadcast_object_list(box, group=group, group_src=src)
    return box[0]  # type: ignore[no-any-return]


def gather_objects(obj: T, group: dist.ProcessGroup | None, dst: int = 0) -> list[T] | None:
    """Every rank's picklable ``obj``, in rank order, on the rank ``dst`` of ``group``; None elsewhere."""
    if group is None:
        return [obj]
    boxes: list[Any] | None = [None] * group.size() if group.rank() == dst else None
    dist.gather_object(obj, boxes, group=group, group_dst=dst)
    return boxes


def barrier(group: dist.ProcessGroup | None) -> None:
    """Return once every rank of ``group`` has come here."""
    if group is not None:
        dist.barrier(group=group)
