"""The autograd collectives of tensor and sequence parallelism (Shoeybi et al., 2019; Korthikanti et al., 2022).

N tokens (B*S, flat), n this rank's tokens ``split_range(N, tp.size, tp.rank)``, D model width, V vocabulary, v this
rank's rows of it. Uneven pieces are fine everywhere; with ``tp.size == 1`` every function returns its input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pyjpllm.distributed import collectives
from pyjpllm.parallel.layout import split_range, split_sizes

if TYPE_CHECKING:
    from pyjpllm.parallel.tensor import TensorParallel


class _Copy(torch.autograd.Function):
    """Forward: as it is. Backward: the ranks' gradients are summed."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, tp: TensorParallel) -> torch.Tensor:
        ctx.tp = tp
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        # A copy: autograd may hand this same buffer to other nodes (both branches of a residual sum).
        grad = grad.clone(memory_format=torch.contiguous_format)
        collectives.all_reduce(grad, ctx.tp.group)
        return grad, None


class _Reduce(torch.autograd.Function):
    """Forward: the ranks' parts are summed, in place. Backward: as it is."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, tp: TensorParallel) -> torch.Tensor:
        if x.is_contiguous() and not x._is_view():
            ctx.mark_dirty(x)
        else:
            x = x.clone(memory_format=torch.contiguous_format)
        collectives.all_reduce(x, tp.group)
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


class _Gather(torch.autograd.Function):
    """Forward: tokens of all ranks. Backward: gradients are summed and each rank keeps its tokens'."""

    @staticmethod
    def forward(ctx: Any, x_nD: torch.Tensor, tp: TensorParallel, num_tokens: int) -> torch.Tensor:
        ctx.tp, ctx.sizes = tp, split_sizes(num_tokens, tp.size)
        if x_nD.shape[0] != ctx.sizes[tp.rank]:
            raise ValueError(
                f"tensor-parallel rank {tp.rank} of {tp.size} has {x_nD.shape[0]} of {num_tokens} tokens, "
                f"not its {ctx.sizes[tp.rank]}"
            )
        return collectives.all_gather(x_nD, tp.group, dim=0, sizes=ctx.sizes)

    @staticmethod
    def backward(ctx: Any, grad_ND: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return collectives.reduce_scatter(grad_ND, ctx.tp.group, dim=0, sizes=ctx.sizes), None, None


class _ReduceScatter(torch.autograd.Function):
    """Forward: the ranks' parts are summed and each rank keeps its tokens. Backward: gradients of all tokens."""

    @staticmethod
    def forward(ctx: Any, x_ND: torch.Tensor, tp: TensorParallel) -> torch.Tensor:
        ctx.tp, ctx.sizes = tp, split_sizes(x_ND.shape[0], tp.size)
        return collectives.reduce_scatter(x_ND, tp.group, dim=0, sizes=ctx.sizes)

    @staticmethod
    def backward(ctx: Any, grad_nD: torch.Tensor) -> tuple[torch.Tensor, None]:
        return collectives.all_gather(grad_nD, ctx.tp.group, dim=0, sizes=ctx.sizes), None


class _GatherVocabulary(torch.autograd.Function):
    """Forward: the columns of all ranks. Backward: each rank keeps its own columns' gradient."""

    @staticmethod
    def forward(ctx: Any, logits_Nv: torch.Tensor, tp: TensorParallel, vocab_size: int) -> torch.Tensor:
        ctx.piece = slice(*split_range(vocab_size, tp.size, tp.rank))
        return collectives.all_gather(logits_Nv, tp.group, dim=-1, sizes=split_sizes(vocab_size, tp.size))

    @staticmethod
    def backward(ctx: Any, grad_NV: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grad_NV[..., ctx.piece], None, None


def copy_to_tp(x: torch.Tensor, tp: TensorParallel) -> torch.Tensor:
    """``x``, equal on all tp ranks, as the input of split weights: its gradient is summed over the ranks."""
    return x if tp.size == 1 else _Copy.apply(x, tp)  # type: ignore[no-untyped-call]


def reduce_from_tp(x: torch.Tensor, tp: TensorParallel) -> torch.Tensor:
    """The sum of the ranks' ``x``, on every rank. The input's memory may be used for the result."""
    return x if tp.size == 1 else _Reduce.apply(x, tp)  # type: ignore[no-untyped-call]


def gather_tokens(x_nD: torch.Tensor, tp: TensorParallel, num_tokens: int) -> torch.Tensor:
    """All ``num_tokens`` tokens x_ND from each rank's x_nD; the gradient is summed and split again."""
    return x_nD if tp.size == 1 else _Gather.apply(x_nD, tp, num_tokens)  # type: ignore[no-untyped-call]


def reduce_scatter_tokens(x_ND: torch.Tensor, tp: TensorParallel) -> torch.Tensor:
    """This rank's tokens x_nD of the sum of the ranks' x_ND; the gradient is gathered."""
    return x_ND if tp.size == 1 else _ReduceScatter.apply(x_ND, tp)  # type: ignore[no-untyped-call]


def gather_vocabulary(logits_Nv: torch.Tensor, tp: TensorParallel, vocab_size: int) -> torch.Tensor:
    """Whole logits_NV on every rank, of which each rank made the columns of its vocabulary rows."""
    if tp.size == 1:
        return logits_Nv
    out: torch.Tensor = _GatherVocabulary.apply(logits_Nv, tp, vocab_size)  # type: ignore[no-untyped-call]
    return out


def tp_input(x_nD: torch.Tensor, tp: TensorParallel, num_tokens: int) -> torch.Tensor:
    """The residual stream as the input of column-parallel layers, x_ND; call once for all that read the same input.

    Under sequence parallelism the tokens are gathered (backward: reduce-scatter); otherwise each rank has them all and
    only the gradient is summed. ``num_tokens`` is N: a rank cannot tell it from its own n when the split is uneven.
    """
    return gather_tokens(x_nD, tp, num_tokens) if tp.sequence else copy_to_tp(x_nD, tp)


def tp_output(x_ND: torch.Tensor, tp: TensorParallel) -> torch.Tensor:
    """The sum of the parts that row-parallel layers made, as the residual stream: x_nD when split, else x_ND."""
    return reduce_scatter_tokens(x_ND, tp) if tp.sequence else reduce_from_tp(x_ND, tp)
