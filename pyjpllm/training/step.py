"""One optimizer step's arithmetic: micro-batches through the model, gradients into the flat buffers.

B micro-batch, S sequence. Nothing here is CPU-only and nothing looks at a value: the same code runs on a GPU, and on
torch's meta device, where the tests prove it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyjpllm.data.batch import Batch
from pyjpllm.distributed.collectives import all_reduce
from pyjpllm.distributed.mesh import Mesh
from pyjpllm.model import Transformer
from pyjpllm.parallel.data import DataParallel
from pyjpllm.training.metrics import Timers

if TYPE_CHECKING:
    from pyjpllm.parallel.sharded import ShardedDataParallel


@dataclass(frozen=True)
class Sums:
    """Sums over this rank's micro-batches, as scalars on the device."""

    loss: Tensor
    z_loss: Tensor


def accumulate_gradients(
    model: Transformer,
    data_parallel: DataParallel | ShardedDataParallel,
    batches: Sequence[Batch],
    *,
    count: Tensor,
    z_loss: float,
    timers: Timers,
    loss_scale: float = 1.0,
) -> Sums:
    """Forward and backward of every micro-batch; afterwards the flat gradients are summed over all ranks.

    ``count`` is the number of valid tokens of the whole step over all ranks: the loss is a mean over
    tokens, not over ranks or micro-batches, so uneven ones weigh right. The gradients are those of the loss times
    ``loss_scale``; the sums returned are not scaled.
    """
    device = count.device
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    z_sum = torch.zeros((), dtype=torch.float64, device=device)
    for index, host_batch in enumerate(batches):
        batch = host_batch.to(device)
        with timers.phase("forward"):
            output = model.loss(
                batch.tokens_BS,
                batch.targets_BS,
                positions_BS=batch.positions_BS,
                document_ids_BS=batch.document_ids_BS,
                z_loss=z_loss,
            )
            loss_sum += output.loss.detach()
            z_sum += output.z_loss.detach()
        with timers.phase("backward"), data_parallel.accumulate(last=index == len(batches) - 1):
            torch.autograd.backward((output.loss + output.z_loss) / count * loss_scale)
    with timers.phase("communicate"):
        data_parallel.finish()
    return Sums(loss_sum, z_sum)


def count_valid(batches: Sequence[Batch], mesh: Mesh, device: torch.device) -> Tensor:
    """How many targets count, over all ranks with some (at least 1, so that an empty step divides by something)."""
    local = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        local += (batch.targets_BS >= 0).sum()
    count = local.to(device)
    all_reduce(count, mesh.group("replicas"))
    return count.clamp(min=1.0)


@torch.no_grad()
def sum_losses(model: Transformer, batches: Sequence[Batch], device: torch.device) -> Tensor:
    """Loss summed over ``batches`` and the number of valid tokens: FP64 [2], this rank's own part."""
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for host_batch in batches:
        batch = host_batch.to(device)
        output = model.loss(
            batch.tokens_BS,
            batch.targets_BS,
            positions_BS=batch.positions_BS,
            document_ids_BS=batch.document_ids_BS,
        )
        sums += torch.stack((output.loss.double(), output.count.double()))
    return sums
