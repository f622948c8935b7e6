"""What differs between torch 2.9 and 2.14 in the process-group interface, all of it.

torch 2.13 renamed calls (``_allgather_base`` became ``all_gather_single``, and so on); its C++ side looks for the new
name first and the old one second, earlier versions for the old name only. Both names are defined on our class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

C = TypeVar("C", bound=type)

# torch.distributed's functions by their 2.13 names.
all_gather_single: Callable[..., Any] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
reduce_scatter_single: Callable[..., Any] = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)

# our method -> the other names under which some torch calls it
OTHER_NAMES = {
    "all_gather_single": ("_allgather_base",),
    "all_gather_single_coalesced": ("allgather_into_tensor_coalesced",),
    "reduce_scatter_single": ("_reduce_scatter_base",),
    "reduce_scatter_single_coalesced": ("reduce_scatter_tensor_coalesced",),
    "all_to_all_single": ("alltoall_base",),
    "split_group": ("splitGroup",),
}


def with_all_names(cls: C) -> C:
    """Class decorator: define every other name of ``OTHER_NAMES``."""
    for name, others in OTHER_NAMES.items():
        for other in others:
            setattr(cls, other, getattr(cls, name))
    return cls
