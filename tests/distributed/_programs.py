"""Plain torch programs that know nothing of MPI: the same body runs over mpi4py and over gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from pyjpllm.distributed import World


class Net(nn.Module):
    """Three layers, one of which has an odd width that no number of ranks divides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(12, 36)
        self.down = nn.Linear(36, 12)
        self.out = nn.Linear(12, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x + self.down(torch.nn.functional.silu(self.up(x))))


def batch(step: int, rank: int) -> torch.Tensor:
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(100 * step + rank))


def steps(model: nn.Module, world: World, count: int = 4) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(count):
        optimizer.zero_grad()
        loss = model(batch(step, world.rank)).square().mean()
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item() / world.size)
    return losses


def full(model: nn.Module) -> list[torch.Tensor]:
    return [p.full_tensor().detach() if isinstance(p, DTensor) else p.detach().clone() for p in model.parameters()]


def ddp(world: World) -> tuple[list[float], list[torch.Tensor]]:
    model = DistributedDataParallel(Net(), bucket_cap_mb=0.001)  # several buckets
    return steps(model, world), full(model)


def ddp_with_hook(world: World) -> list[torch.Tensor]:
    """PowerSGD's hook chains futures and waits for collectives inside of callbacks."""
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

    model = DistributedDataParallel(Net())
    state = powerSGD_hook.PowerSGDState(dist.group.WORLD, matrix_approximation_rank=2, start_powerSGD_iter=2)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    steps(model, world)
    other = DistributedDataParallel(Net())
    other.register_comm_hook(None, averaging_hook)
    steps(other, world)
    return full(model) + full(other)


def averaging_hook(state, bucket):  # torch checks annotations, and takes no string for one
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0] / dist.get_world_size())


def ddp_sparse(world: World) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2)))
    model(torch.tensor([world.rank, 3, 3])).square().sum().backward()
    return [p.grad.to_dense() for p in model.parameters() if p.grad is not None]


def fsdp2(world: World) -> tuple[list[float], list[torch.Tensor]]:
    model = Net()
    for layer in (model.up, model.down):
        fully_shard(layer)
    fully_shard(model)
    return steps(model, world), full(model)


def fsdp2_bf16(world: World) -> list[float]:
    model = Net()
    fully_shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16))
    return steps(model, world)


def tensor_parallel(world: World) -> tuple[list[float], list[torch.Tensor]]:
    mesh = init_device_mesh("cpu", (world.size,), mesh_dim_names=("tp",))
    model = Net()
    parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    alone = World(0, 1, 0, 1, world.backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        loss = model(batch(step, alone.rank)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, full(model)


def fsdp2_with_tp(world: World) -> tuple[list[float], list[torch.Tensor]]:
    """Two-dimensional: 2 ways FSDP2, the rest tensor parallel."""
    mesh = init_device_mesh("cpu", (2, world.size // 2), mesh_dim_names=("dp", "tp"))
    model = Net()
    parallelize_module(model, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        loss = model(batch(step, mesh.get_local_rank("dp"))).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, full(model)


def dtensors(world: World) -> list[torch.Tensor]:
    """Redistribution between every pair of placements, uneven shards included."""
    mesh = init_device_mesh("cpu", (world.size,))
    x = torch.arange(35.0).view(5, 7)
    results = []
    for before in (Replicate(), Shard(0), Shard(1)):
        for after in (Replicate(), Shard(0), Shard(1)):
            results.append(distribute_tensor(x, mesh, [before]).redistribute(mesh, [after]).full_tensor())
    product = distribute_tensor(x, mesh, [Shard(1)]) @ distribute_tensor(x.t().contiguous(), mesh, [Shard(0)])
    return [*results, product.full_tensor()]


def functional(world: World) -> list[torch.Tensor]:
    """Functional collectives (what torch.compile sees), eagerly."""
    import torch.distributed._functional_collectives as fc

    x = torch.arange(6.0) + world.rank
    group = dist.group.WORLD
    n = world.size
    return [
        fc.all_reduce(x, "sum", group).clone(),
        fc.all_reduce(x, "avg", group).clone() if world.backend != "gloo" else fc.all_reduce(x, "sum", group) / n,
        fc.all_gather_tensor(x, 0, group).clone(),
        fc.reduce_scatter_tensor(x.repeat(n), "sum", 0, group).clone(),
        fc.all_to_all_single(x.repeat(n), [6] * n, [6] * n, group).clone(),
        fc.broadcast(x, 1, group).clone(),
        *[t.clone() for t in fc.all_reduce_coalesced([x, x + 1], "sum", group)],
        *[t.clone() for t in fc.all_gather_into_tensor_coalesced([x, x[:2] + 1], group)],
    ]


def pipeline(world: World) -> tuple[list[float], list[torch.Tensor]]:
    """torch's own schedules: batched isend and irecv between stages."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    results: list[float] = []
    gradients: list[torch.Tensor] = []
    for schedule_class in (ScheduleGPipe, Schedule1F1B):
        torch.manual_seed(0)
        layers = nn.ModuleList([nn.Linear(12, 12) for _ in range(world.size)])
        module = nn.Sequential(layers[world.rank], nn.Tanh())
        stage = PipelineStage(module, world.rank, world.size, torch.device("cpu"), group=dist.group.WORLD)
        schedule = schedule_class(stage, n_microbatches=4, loss_fn=lambda out, target: (out - target).square().mean())
        x, target = torch.randn(8, 12), torch.zeros(8, 12)
        losses: list[torch.Tensor] = []
        if world.rank == 0:
            schedule.step(x)
        elif world.rank == world.size - 1:
            schedule.step(target=target, losses=losses)
        else:
            schedule.step()
        results += [loss.item() for loss in losses]
        gradients += [p.grad.clone() for p in module.parameters() if p.grad is not None]
    return results, gradients


def save_checkpoint(world: World, folder: str) -> list[torch.Tensor]:
    """Train a few steps under FSDP2, save model and optimizer with torch.distributed.checkpoint."""
    model = Net()
    fully_shard(model)
    steps(model, world)
    state = {"model": model.state_dict(), "step": 4}
    dcp.save(state, checkpoint_id=folder)
    # Another thread's collectives need a group of their own: their order among the main thread's is not fixed.
    future = dcp.async_save(state, checkpoint_id=folder + "-async", process_group=dist.new_group())
    for _ in range(20):
        dist.all_reduce(torch.ones(3))  # meanwhile
    future.result()
    return full(model)


def load_checkpoint(world: World, folder: str) -> tuple[int, list[torch.Tensor]]:
    """Load it again, on however many ranks there are now."""
    torch.manual_seed(1)
    model = Net()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    fully_shard(model)
    state: dict[str, Any] = {"model": model.state_dict(), "step": 0}
    dcp.load(state, checkpoint_id=folder)
    model.load_state_dict(state["model"])
    return state["step"], full(model)


BODIES = (
    ddp, ddp_with_hook, ddp_sparse, fsdp2, fsdp2_bf16, tensor_parallel, fsdp2_with_tp, dtensors, functional, pipeline,
)  # fmt: skip


def all_programs(world: World, folder: str) -> dict[str, Any]:
    bodies = [body for body in BODIES if body is not fsdp2_bf16 or world.backend != "gloo"]  # gloo sums BF16 in BF16
    results: dict[str, Any] = {body.__name__: body(world) for body in bodies}
    results["saved"] = save_checkpoint(world, str(Path(folder) / world.backend))
    return results


def load_all(world: World, *folders: str) -> list[tuple[int, list[torch.Tensor]]]:
    return [load_checkpoint(world, folder) for folder in folders]
