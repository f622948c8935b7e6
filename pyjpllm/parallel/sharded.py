"""ZeRO-3: weights, gradients and optimizer state shared among replicas, a block's weights whole only while it computes.

Rajbhandari et al., 2020, arXiv:1910.02054, by torch's ``fully_shard`` (Zhao et al., 2023, arXiv:2304.11277). Between
steps every rank holds its shard of each parameter in the master type; a block's shards are gathered in the model's type
before its forward and again before its backward, after which its gradients are reduce-scattered. These are plain sums:
the loss is divided by a count over all ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from pyjpllm.distributed import Mesh, collectives
from pyjpllm.parallel.flat import FlatEntry, Part
from pyjpllm.parallel.layout import layout_of, piece_of, set_layout
from pyjpllm.parallel.zero import ValueGather


class HasBlocks(Protocol):
    """What is asked of a model beside being a module."""

    blocks: nn.ModuleDict
    """Each is gathered as a whole."""
    gathered_dtype: torch.dtype | None
    """The type in which they are gathered."""


class ShardedGroup:
    """Sharded parameters of one kind; as `FlatGroup`, every parameter being a part.

    Attributes:
        weight_decay: whether these parameters decay.
        replicas: the axis of the mesh along which they are sharded.
    """

    def __init__(self, named: list[tuple[str, DTensor]], *, weight_decay: bool, replicas: str) -> None:
        self.weight_decay, self.replicas = weight_decay, replicas
        self.named = named

    @property
    def parts(self) -> list[Part]:
        """The shards that are not empty, as they lie in memory now: torch may move them before the first forward."""
        parts = []
        with torch.no_grad():
            for name, param in self.named:
                local, layout = piece_of(param)
                if local.numel():
                    assert isinstance(param.grad, DTensor)
                    values, grad = local.view(-1), param.grad.to_local().view(-1)
                    entry = FlatEntry(name, local, 0, local.numel(), layout)
                    parts.append(Part(0, local.numel(), (entry,), values, grad, values))
        return parts


class ShardedParameters:
    """The parameters of ``model``, from now on sharded over their replicas; as `FlatParameters`.

    Args:
        model: with ``blocks``, without values, on the meta device: they are filled in afterwards (`pieces_of`), shard
            by shard.
        mesh: the ranks, with several replicas.
        device: where the shards are to be.
        dtype: the model's type, in which blocks compute.
        gradients: the type in which gradients travel; None: that of the shards.
    """

    zero = 3

    def __init__(
        self,
        model: nn.Module,
        mesh: Mesh,
        device: torch.device,
        *,
        dtype: torch.dtype,
        gradients: torch.dtype | None = None,
    ) -> None:
        layouts = {name: layout_of(param) for name, param in model.named_parameters()}
        master = next(model.parameters()).dtype
        policy = MixedPrecisionPolicy(
            param_dtype=None if dtype == master else dtype, reduce_dtype=gradients or master, cast_forward_inputs=False
        )
        dense, experts = (mesh.along(axis) for axis in ("replicas", "expert_replicas"))
        of_blocks = cast(HasBlocks, model)
        for block in of_blocks.blocks.values():
            mixture = getattr(block.mlp, "experts", None)
            if mixture is not None:
                fully_shard(
                    mixture, mesh=experts, mp_policy=policy, shard_placement_fn=_expert_dimension(experts.size())
                )
            fully_shard(block, mesh=dense, mp_policy=policy)
        fully_shard(model, mesh=dense, mp_policy=policy)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
                if gradients is not None and gradients != master:
                    module.set_custom_reduce_scatter(_SixteenBits())  # type: ignore[arg-type]
        model.to_empty(device=device)
        for buffer in model.buffers():
            buffer.zero_()
        of_blocks.gathered_dtype = dtype
        kinds: dict[tuple[str, bool], list[tuple[str, DTensor]]] = {}
        self._summed_first: dict[dist.ProcessGroup, list[DTensor]] = {}
        for name, param in model.named_parameters():
            assert isinstance(param, DTensor)
            layout = layouts[name]
            set_layout(param, layout)
            param.grad = torch.zeros_like(param, requires_grad=False)
            kinds.setdefault((layout.replicas, len(layout.global_shape) >= 2), []).append((name, param))
            if layout.grad_group is not None:
                self._summed_first.setdefault(layout.grad_group, []).append(param)
        self.groups = [
            ShardedGroup(named, weight_decay=decays, replicas=replicas) for (replicas, decays), named in kinds.items()
        ]
        self.device = device
        self.values = ValueGather(())

    def entries(self) -> Iterator[tuple[ShardedGroup, FlatEntry]]:
        """Every parameter with its group, those without elements on this rank among them."""
        for group in self.groups:
            for name, param in group.named:
                yield group, FlatEntry(name, param, 0, param.numel(), layout_of(param))

    def zero_grad(self) -> None:
        """Start the gradient sums anew."""
        for group in self.groups:
            for part in group.parts:
                part.grad.zero_()

    def master_to_model(self) -> None:
        """Nothing: the next forward gathers the shards as they are then."""

    def remove_hooks(self) -> None:
        """Nothing: the model stays sharded."""

    def sum_parts(self) -> None:
        """Sum the gradients that are parts of a sum over other ranks than replicas: a message for each group of them.

        The shards of those ranks are cut alike, so sums of shards are shards of the sum.
        """
        for group, params in self._summed_first.items():
            grads = [param.grad.to_local() for param in params if isinstance(param.grad, DTensor)]
            joined = torch.cat([grad.view(-1) for grad in grads])
            collectives.all_reduce(joined, group)
            for grad, whole in zip(grads, torch.split(joined, [grad.numel() for grad in grads]), strict=True):
                grad.copy_(whole.view_as(grad))


class ShardedDataParallel:
    """The steps of `DataParallel` with sharded parameters: torch sums every backward's gradients block by block."""

    def __init__(self, parameters: ShardedParameters) -> None:
        self.parameters = parameters
        self._failed = False

    @contextlib.contextmanager
    def accumulate(self, last: bool, names: AbstractSet[str] | None = None) -> Iterator[None]:
        """Around the backward of one micro-batch; an exception passes through, and the step cannot be finished then."""
        del last
        if names is not None:
            raise ValueError("ZeRO-3 sends every backward's gradients whole: not those of some parameters")
        try:
            yield
        except BaseException:
            self._failed = True
            raise

    def finish(self) -> None:
        """Every gradient that this rank steps is now the sum over all ranks that made parts of it."""
        if self._failed:
            raise RuntimeError("the backward of this step failed: its gradients are not whole on every rank")
        self.parameters.sum_parts()


def _expert_dimension(ranks: int) -> Callable[[nn.Parameter], Shard | None]:
    """By which dimension to shard weights of experts [e, O, I]: the first that divides evenly, for with fewer experts
    than ranks the first one would leave some without any."""

    def choose(param: nn.Parameter) -> Shard | None:
        return next((Shard(dim) for dim, size in enumerate(param.shape) if size and size % ranks == 0), None)

    return choose


class _SixteenBits:
    """A reduce-scatter of 16-bit gradients: summed in FP32 in the order of ranks, rounded once, on every backend."""

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        del op, async_op
        pieces = collectives.all_to_all(input_tensor, group).view(group.size(), -1)
        output_tensor.copy_(pieces.sum(0, dtype=torch.float32))
