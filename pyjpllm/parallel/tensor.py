"""Layers whose weights are split over tensor-parallel ranks, and the loss over a split vocabulary.

The residual stream is flat: x_ND with N = B*S tokens; under sequence parallelism a rank holds the n tokens of
``split_range(N, tp.size, tp.rank)``. D model width, I inputs, O outputs (i, o: this rank's), V vocabulary, v this
rank's rows of it. A weight is made empty: the model's ``initialize`` or a checkpoint fills it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from pyjpllm import ops
from pyjpllm.distributed import Mesh, collectives
from pyjpllm.distributed.launch import new_group
from pyjpllm.ops.api import combine_cross_entropy
from pyjpllm.parallel.deferred import linear
from pyjpllm.parallel.layout import Layout, set_layout, split_range
from pyjpllm.parallel.sequence import gather_vocabulary, tp_input, tp_output


@dataclass(frozen=True)
class TensorParallel:
    """The tensor-parallel ranks as a layer sees them; the default is a rank alone.

    Attributes:
        group: their process group; None when ``size`` is 1.
        rank, size: this rank's place, and how many there are.
        sequence: norms and the residual stream are split along the tokens (sequence parallelism).
    """

    group: dist.ProcessGroup | None = None
    rank: int = 0
    size: int = 1
    sequence: bool = False
    _replicas: dict[int, dist.ProcessGroup] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_mesh(cls, mesh: Mesh, sequence: bool = False) -> TensorParallel:
        """The tp axis of ``mesh``; with one rank on it ``sequence`` has nothing to split and is off."""
        size = mesh.size("tp")
        return cls(mesh.group("tp"), mesh.rank("tp"), size, sequence and size > 1)

    def replica_group(self, copies: int) -> dist.ProcessGroup | None:
        """This rank's run of ``copies`` neighbouring ranks, which hold the same piece of a weight.

        Made at the first call, which all ranks of the run must reach at the same point of the program.
        """
        if copies == 1 or self.group is None:
            return None
        if copies == self.size:
            return self.group
        if copies not in self._replicas:
            first = self.rank // copies * copies
            members = dist.get_process_group_ranks(self.group)[first : first + copies]
            self._replicas[copies] = new_group(members, "tp_replicas")
        return self._replicas[copies]


class ColumnParallelLinear(nn.Module):
    """y_No = x_NI weight_oI^T + bias_o with the outputs split: this rank makes the columns ``out_range``.

    The input is what :func:`~pyjpllm.parallel.sequence.tp_input` gives, once for all layers that read it.

    Args:
        out_range: this rank's outputs; None: ``split_range(out_features, tp.size, tp.rank)``.
        copies: how many neighbouring ranks make this very piece (replicated kv heads); their gradients are summed.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        tp: TensorParallel,
        bias: bool = False,
        out_range: tuple[int, int] | None = None,
        copies: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        piece = split_range(out_features, tp.size, tp.rank) if out_range is None else out_range
        rows, group = piece[1] - piece[0], tp.replica_group(copies)
        self.weight = nn.Parameter(torch.empty(rows, in_features, dtype=dtype, device=device))
        set_layout(self.weight, Layout.split((out_features, in_features), 0, piece, copies=copies, grad_group=group))
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.zeros(rows, dtype=dtype, device=device))
            set_layout(self.bias, Layout.split((out_features,), 0, piece, copies=copies, grad_group=group))

    def forward(self, x_NI: torch.Tensor) -> torch.Tensor:
        """x[..., I] -> y[..., o]."""
        return linear(x_NI, self.weight, self.bias)


class RowParallelLinear(nn.Module):
    """y_NO = x_NI weight_OI^T + bias_O with the inputs split: the ranks' parts are summed into the residual stream.

    Args:
        in_range: this rank's inputs; None: ``split_range(in_features, tp.size, tp.rank)``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        tp: TensorParallel,
        bias: bool = False,
        in_range: tuple[int, int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.tp = tp
        piece = split_range(in_features, tp.size, tp.rank) if in_range is None else in_range
        self.weight = nn.Parameter(torch.empty(out_features, piece[1] - piece[0], dtype=dtype, device=device))
        set_layout(self.weight, Layout.split((out_features, in_features), 1, piece))
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device))
            # Under sequence parallelism a rank adds it to its own tokens only.
            grad_group = tp.group if tp.sequence else None
            set_layout(self.bias, Layout.whole((out_features,), copies=tp.size, grad_group=grad_group))

    def forward(self, x_Ni: torch.Tensor) -> torch.Tensor:
        """x_Ni -> y_nO (sequence parallel) or y_NO."""
        if self.tp.size == 1:
            return linear(x_Ni, self.weight, self.bias)
        y = tp_output(self.part(x_Ni), self.tp)
        return y if self.bias is None else y + self.bias

    def part(self, x_Ni: torch.Tensor) -> torch.Tensor:
        """x_Ni -> this rank's part of y_NO without the bias, for a caller that sums over the ranks itself."""
        return linear(x_Ni, self.weight)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension (Zhang and Sennrich, 2019), the weight whole on every tp rank.

    Args:
        per_head: it norms this rank's heads, not the residual stream: its gradient is always summed over tp.
    """

    def __init__(
        self,
        dim: int,
        eps: float,
        *,
        tp: TensorParallel,
        per_head: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim, dtype=dtype, device=device))
        grad_group = tp.group if tp.sequence or per_head else None
        set_layout(self.weight, Layout.whole((dim,), copies=tp.size, grad_group=grad_group))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x[..., dim] -> the same shape."""
        return ops.rms_norm(x, self.weight, self.eps)

    def of_sum(self, x: torch.Tensor, update: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x + update, and its norm: both [..., dim]."""
        return ops.add_rms_norm(x, update, self.weight, self.eps)


class VocabParallelEmbedding(nn.Module):
    """The embedding with its V rows split over the ranks; ``vocab_size`` need not divide, or reach, ``tp.size``.

    Args:
        copies, grad_group: how many pipeline ranks hold this very piece, and which (a head that is tied to it).
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        tp: TensorParallel,
        copies: int = 1,
        grad_group: dist.ProcessGroup | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.tp, self.vocab_size = tp, vocab_size
        self.piece = split_range(vocab_size, tp.size, tp.rank)
        self.weight = nn.Parameter(torch.empty(self.piece[1] - self.piece[0], dim, dtype=dtype, device=device))
        layout = Layout.split((vocab_size, dim), 0, self.piece, copies=copies, grad_group=grad_group)
        set_layout(self.weight, replace(layout, pipeline_copies=copies))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids of any shape, N in all -> x_nD (sequence parallel) or x_ND, rows flat."""
        ids_N = ids.reshape(-1)
        if self.tp.size == 1:
            return ops.embedding(ids_N, self.weight)
        if ids_N.is_cpu and ids_N.numel() and not (int(ids_N.min()) >= 0 and int(ids_N.max()) < self.vocab_size):
            raise IndexError(f"token ids {int(ids_N.min())}..{int(ids_N.max())} of a vocabulary of {self.vocab_size}")
        start, stop = self.piece
        if start == stop:
            # No row is here, but the sum over the ranks needs this rank, in backward too: stay in the graph.
            x_ND = self.weight.new_zeros(ids_N.shape[0], self.weight.shape[1]) + self.weight.sum(0)
        else:
            elsewhere_N = (ids_N < start) | (ids_N >= stop)
            x_ND = ops.embedding((ids_N - start).masked_fill(elsewhere_N, 0), self.weight)
            x_ND = x_ND.masked_fill(elsewhere_N[:, None], 0)
        return tp_output(x_ND, self.tp)


class _CombineLogsumexp(torch.autograd.Function):
    """Log-sum-exp over the vocabulary from each rank's own, and the target logit from the one rank that has it."""

    @staticmethod
    def forward(
        ctx: Any, local_lse_N: torch.Tensor, local_target_N: torch.Tensor, tp: TensorParallel
    ) -> tuple[torch.Tensor, torch.Tensor]:
        peak_N = local_lse_N.clone()
        collectives.all_reduce(peak_N, tp.group, op="max")
        sums_2N = torch.stack([torch.exp(local_lse_N - peak_N), local_target_N])
        collectives.all_reduce(sums_2N, tp.group)
        lse_N = peak_N + torch.log(sums_2N[0])
        ctx.save_for_backward(torch.exp(local_lse_N - lse_N))
        return lse_N, sums_2N[1].clone()

    @staticmethod
    def backward(
        ctx: Any, grad_lse_N: torch.Tensor, grad_target_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        (share_N,) = ctx.saved_tensors
        return grad_lse_N * share_N, grad_target_N, None


def vocab_parallel_cross_entropy(
    hidden_nD: torch.Tensor,
    weight_vD: torch.Tensor,
    targets: torch.Tensor,
    *,
    tp: TensorParallel,
    vocab_size: int,
    z_loss: float = 0.0,
    ignore_index: int = -100,
) -> ops.CrossEntropy:
    """Cross-entropy of ``hidden @ weight.T`` with the vocabulary split over tp; no rank holds all the logits.

    Args:
        hidden_nD: the residual stream: this rank's tokens under sequence parallelism, else all N.
        weight_vD: this rank's rows ``split_range(vocab_size, tp.size, tp.rank)``; may be empty.
        targets: all N token ids, equal on the tp ranks, of any shape; ``ignore_index`` where not counted.
        z_loss: weight of the squared log-sum-exp.

    Returns:
        What ``ops.linear_cross_entropy`` gives in one process, equal on all tp ranks: loss and z_loss summed over
        the counted tokens, and their number. Backward through it once on every rank.
    """
    targets_N = targets.reshape(-1)
    valid_N = targets_N != ignore_index
    if targets_N.is_cpu and bool((valid_N & ((targets_N < 0) | (targets_N >= vocab_size))).any()):
        raise IndexError(f"a target is neither in a vocabulary of {vocab_size} nor ignore_index = {ignore_index}")
    if tp.size == 1:
        return ops.linear_cross_entropy(hidden_nD, weight_vD, targets_N, z_loss=z_loss, ignore_index=ignore_index)
    hidden_ND = tp_input(hidden_nD, tp, targets_N.shape[0])
    start, stop = split_range(vocab_size, tp.size, tp.rank)
    if start == stop:
        # Nothing to add to the sums, but the gradient of the hidden states needs this rank: stay in the graph.
        dtype = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        local_target_N = hidden_ND[:, :0].sum(1, dtype=dtype) + weight_vD.sum(dtype=dtype)
        local_lse_N = local_target_N - float("inf")
    else:
        here_N = (targets_N >= start) & (targets_N < stop)
        local_targets_N = torch.where(here_N, targets_N - start, -1)
        local_lse_N, local_target_N = ops.linear_logsumexp(hidden_ND, weight_vD, local_targets_N)
    lse_N, target_N = _CombineLogsumexp.apply(local_lse_N, local_target_N, tp)  # type: ignore[no-untyped-call]
    return combine_cross_entropy(lse_N, target_N, valid_N, z_loss)


def vocab_parallel_logits(
    hidden_nD: torch.Tensor, weight_vD: torch.Tensor, *, tp: TensorParallel, vocab_size: int, num_tokens: int
) -> torch.Tensor:
    """Whole logits_NV on every rank, for generation and small checks: N x V values.

    ``hidden_nD`` is the residual stream, ``num_tokens`` its N over all ranks.
    """
    return gather_vocabulary(ops.linear(tp_input(hidden_nD, tp, num_tokens), weight_vD), tp, vocab_size)
