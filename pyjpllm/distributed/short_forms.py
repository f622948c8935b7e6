"""The short forms of ProcessGroup's methods: ``group.broadcast(x, 0)`` beside ``group.broadcast([x], options)``.

torch offers both from Python; its own C++ and ``torch.distributed`` functions use the long one, which passes through
here untouched.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

C = TypeVar("C", bound=type)


@dataclass
class Options:
    """The fields of torch's option objects (AllreduceOptions, ...) that this backend reads."""

    reduceOp: Any = dist.ReduceOp.SUM
    rootRank: int = 0
    timeout: datetime.timedelta = datetime.timedelta(0)


# method: how many arguments are data, and the names of those after them.
_METHODS: dict[str, tuple[int, tuple[str, ...]]] = {
    "broadcast": (1, ("root", "timeout")),
    "allreduce": (1, ("op", "timeout")),
    "reduce": (1, ("root", "op", "timeout")),
    "allgather": (2, ("timeout",)),
    "gather": (2, ("root", "timeout")),
    "scatter": (2, ("root", "timeout")),
    "reduce_scatter": (2, ("op", "timeout")),
    "alltoall": (2, ("timeout",)),
    "all_to_all_single": (4, ("timeout",)),
    "barrier": (0, ("timeout",)),
}
_FIELDS = {"root": "rootRank", "op": "reduceOp", "timeout": "timeout"}
# In the short form these take one tensor where the long one has a list, and one list where it has a list of lists.
_WRAPPED = ("broadcast", "allreduce", "reduce", "allgather", "gather", "scatter", "reduce_scatter")


def with_short_forms(cls: C) -> C:
    """Class decorator: let the methods above take either form."""
    for name, (count, extras) in _METHODS.items():
        setattr(cls, name, _either(getattr(cls, name), name, count, extras))
    return cls


def _either(method: Callable[..., Any], name: str, count: int, extras: tuple[str, ...]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        if not named and arguments and hasattr(arguments[-1], "asyncOp"):  # torch's option objects have it
            return method(self, *arguments)
        values = list(arguments)
        options = Options()
        opts = named.pop("opts", None)
        for key in [key for key in named if key not in extras]:  # the data, under torch's various names
            values.append(named.pop(key))
        data, rest = values[:count], values[count:]
        if rest and hasattr(rest[0], "asyncOp"):
            opts = rest.pop(0)
        for key, value in [*zip(extras, rest, strict=False), *named.items()]:
            if value is not None:
                setattr(options, _FIELDS[key], value)
        if name in _WRAPPED and any(isinstance(value, torch.Tensor) for value in data):
            data = [[value] for value in data]
        return method(self, *data, opts if opts is not None else options)

    return call
