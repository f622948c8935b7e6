"""One rank acts for all: what it found, or the error it met, is everybody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from pyjpllm.distributed.collectives import broadcast_object

T = TypeVar("T")


def on_first_rank(action: Callable[[], T], group: dist.ProcessGroup | None) -> T:
    """Run ``action`` on the first rank of ``group`` only; every rank gets what it returned, or raises what it raised.

    For files that one rank reads or writes for all. Result and exception must be picklable.
    """
    if group is None:
        return action()
    result: T | None = None
    error: Exception | None = None
    if group.rank() == 0:
        try:
            result = action()
        except Exception as problem:
            error = problem
    result, error = broadcast_object((result, error), group)
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
