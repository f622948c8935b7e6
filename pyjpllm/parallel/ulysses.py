"""Ulysses (Jacobs et al., 2023): an all-to-all gives each rank all tokens of some heads, another one its tokens back.

B sequences, S tokens of a sequence, s this rank's, H query heads, K key/value heads and d their width; h and k: this
rank's heads between the two exchanges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyjpllm import ops
from pyjpllm.distributed import collectives
from pyjpllm.parallel.layout import head_ranges

if TYPE_CHECKING:
    from pyjpllm.parallel.context import ContextParallel

Ranges = Sequence[Sequence[tuple[int, int]]]
"""For each tensor, which of its heads each rank has between the exchanges."""


class _Place(NamedTuple):
    rank: int
    size: int


def ulysses_attention(
    q_BsHd: Tensor,
    k_BsKd: Tensor,
    v_BsKd: Tensor,
    document_ids_BS: Tensor | None,
    window: int | None,
    cp: ContextParallel,
) -> Tensor:
    """Causal attention of whole sequences to this rank's queries; the document ids are those of whole sequences.

    Heads are dealt out as over tensor-parallel ranks: unevenly where they do not divide, and a kv head goes to several
    ranks where there are fewer than ranks. Raises UserError where that cannot be.
    """
    heads = [
        head_ranges(q_BsHd.shape[2], k_BsKd.shape[2], _Place(rank, cp.size), field="parallel.context")
        for rank in range(cp.size)
    ]
    q_ranges, kv_ranges = [head.q for head in heads], [head.kv for head in heads]
    whole = _ToHeads.apply(cp, (q_ranges, kv_ranges, kv_ranges), q_BsHd, k_BsKd, v_BsKd)  # type: ignore[no-untyped-call]
    q_BShd, k_BSkd, v_BSkd = whole
    out_BShd = ops.attention(q_BShd, k_BSkd, v_BSkd, document_ids_BS=document_ids_BS, window=window)
    out_BsHd: Tensor
    (out_BsHd,) = _ToTokens.apply(cp, (q_ranges,), out_BShd)  # type: ignore[no-untyped-call]
    return out_BsHd


class _ToHeads(torch.autograd.Function):
    """Forward: this rank's tokens of all heads -> all tokens of its heads. Backward: the other way."""

    @staticmethod
    def forward(ctx: Any, cp: ContextParallel, ranges: Ranges, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.cp, ctx.ranges = cp, ranges
        return _to_heads(cp, ranges, tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_to_tokens(ctx.cp, ctx.ranges, grads)


class _ToTokens(torch.autograd.Function):
    """Forward: all tokens of this rank's heads -> its tokens of all heads. Backward: the other way."""

    @staticmethod
    def forward(ctx: Any, cp: ContextParallel, ranges: Ranges, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.cp, ctx.ranges = cp, ranges
        return _to_tokens(cp, ranges, tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_to_heads(ctx.cp, ctx.ranges, grads)


def _to_heads(cp: ContextParallel, ranges: Ranges, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """[B, s, all heads, d] -> [B, S, this rank's heads, d]."""
    batch, dim = tensors[0].shape[0], tensors[0].shape[3]
    sent = [[x[:, :, slice(*of[rank])] for x, of in zip(tensors, ranges, strict=True)] for rank in range(cp.size)]
    mine = [of[cp.rank][1] - of[cp.rank][0] for of in ranges]
    shapes = [[(batch, length, heads, dim) for heads in mine] for length in cp.lengths]
    received = _exchange(cp, sent, shapes)
    return tuple(cp.put_together(pieces) for pieces in zip(*received, strict=True))


def _to_tokens(cp: ContextParallel, ranges: Ranges, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """[B, S, this rank's heads, d] -> [B, s, all heads, d]; a head that several ranks have is summed."""
    batch, dim = tensors[0].shape[0], tensors[0].shape[3]
    sent = [[torch.cat([x[:, block] for block in cp.blocks_of(rank)], 1) for x in tensors] for rank in range(cp.size)]
    length = cp.lengths[cp.rank]
    shapes = [[(batch, length, of[rank][1] - of[rank][0], dim) for of in ranges] for rank in range(cp.size)]
    received = _exchange(cp, sent, shapes)
    made = []
    for place, of in enumerate(ranges):
        whole = tensors[place].new_zeros((batch, length, max(stop for _, stop in of), dim))
        for rank, heads in enumerate(of):
            whole[:, :, slice(*heads)] += received[rank][place]
        made.append(whole)
    return tuple(made)


def _exchange(
    cp: ContextParallel, sent: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[tuple[int, ...]]]
) -> list[list[Tensor]]:
    """Send ``sent[rank]`` to each rank and receive tensors of ``shapes[rank]`` from it, in one all-to-all."""
    sizes = [[math.prod(shape) for shape in of_rank] for of_rank in shapes]
    received = collectives.all_to_all(
        torch.cat([x.reshape(-1) for of_rank in sent for x in of_rank]),
        cp.group,
        [sum(of_rank) for of_rank in sizes],
        [sum(x.numel() for x in of_rank) for of_rank in sent],
    )
    pieces = iter(torch.split(received, [size for of_rank in sizes for size in of_rank]))
    return [[next(pieces).view(shape) for shape in of_rank] for of_rank in shapes]
