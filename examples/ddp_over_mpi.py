"""Plain torch DistributedDataParallel over MPI. The one line that makes it so is marked.

mpirun -n 2 python examples/ddp_over_mpi.py
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pyjpllm.distributed  # noqa: F401  -- this line: torch.distributed now has the backend "mpi4py"


def main() -> None:
    dist.init_process_group("mpi4py")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(rank)  # every rank has data of its own
    for step in range(100):
        x = torch.randn(64, 8, generator=generator)
        loss = (model(x) - x.sum(1, keepdim=True).sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == 99:
            mean = loss.detach().clone()
            dist.all_reduce(mean, dist.ReduceOp.AVG)
            if rank == 0:
                print(f"step {step}: loss {mean.item():.4f} on {size} ranks", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
