"""The ranks that share a tied embedding: those with the first and the last chunk of the model."""

from __future__ import annotations

from torch import distributed as dist

from pyjpllm.distributed import Mesh
from pyjpllm.distributed.launch import new_group
from pyjpllm.parallel.pipeline.table import Schedule


def tied_group(schedule: Schedule, mesh: Mesh) -> dist.ProcessGroup | None:
    """The group of the two ranks of this pipeline that hold the ends of the model; None for one rank, and for others.

    To be called on every rank at the same point. The ranks between make a group as well, each one of its own, so that
    all have made as many.
    """
    group = mesh.group("pp")
    ends = sorted({schedule.rank_of[0], schedule.rank_of[-1]})
    if group is None or len(ends) == 1:
        return None
    members = dist.get_process_group_ranks(group)
    rank = mesh.rank("pp")
    chosen = [members[end] for end in ends] if rank in ends else [members[rank]]
    made = new_group(chosen, "tied_embedding")
    return made if rank in ends else None
