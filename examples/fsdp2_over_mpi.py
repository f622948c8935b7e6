"""Plain torch FSDP2 (fully_shard) over MPI, with a sharded checkpoint. The one line that makes it so is marked.

mpirun -n 2 python examples/fsdp2_over_mpi.py --checkpoint /tmp/fsdp2-example
"""

from __future__ import annotations

import argparse
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.fsdp import fully_shard

import pyjpllm.distributed  # noqa: F401  -- this line: torch.distributed now has the backend "mpi4py"


class Block(nn.Module):
    """A residual layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.silu(self.up(x)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=f"{tempfile.gettempdir()}/fsdp2-example", help="a folder all ranks see")
    arguments = parser.parse_args()
    dist.init_process_group("mpi4py")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), Block(64), Block(64), nn.Linear(64, 1))
    for layer in model:
        if isinstance(layer, Block):
            fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(rank)
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
    dcp.save({"model": model.state_dict()}, checkpoint_id=arguments.checkpoint)
    if rank == 0:
        print(f"checkpoint in {arguments.checkpoint}; it loads on any number of ranks")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
