"""Which cores a rank computes on, and which one moves its messages meanwhile, if there is one."""

from __future__ import annotations

import os
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pyjpllm.errors import UserError, nearest

VARIABLE = "PYJPLLM_COMMUNICATION_CORES"
WORDS = ("auto", "none", "reserve")


@dataclass(frozen=True)
class Cores:
    """A rank's division of its cores.

    Attributes:
        compute: CPUs that all other threads are to run on.
        communication: CPUs that the communication thread is to run on, none of which computes unless all are shared by
            the launcher's choice; None: it gets no thread, and who waits moves the messages.
    """

    compute: frozenset[int]
    communication: frozenset[int] | None

    def __str__(self) -> str:
        if self.communication is None:
            return "by those who wait"
        alone = len(self.communication) == 1
        return f"by a thread on CPU {min(self.communication)}" if alone else "by a thread on a spare CPU"


def threads_written() -> int | None:
    """``OMP_NUM_THREADS``, where it is a number."""
    written = os.environ.get("OMP_NUM_THREADS", "")
    return int(written) if written.isdigit() and int(written) > 0 else None


def divide(
    setting: str, *, mine: AbstractSet[int], online: int, local_rank: int, local_size: int, threads: int | None
) -> Cores:
    """Divide the cores as ``PYJPLLM_COMMUNICATION_CORES`` says.

    ``auto`` takes a core that no thread computes on, where ``threads`` leave one; ``reserve`` takes one of the rank's
    cores from compute; ``none`` takes none; numbers are CPUs kept for communication, which the ranks of the node take
    in turn (the assistant cores of an A64FX).

    Args:
        setting: the variable's value.
        mine: CPUs that this process may run on.
        online: CPUs of the node. A launcher that binds ranks has given each its own; one that does not lets all of
            them share the node.
        local_rank: this rank's place among the ``local_size`` ranks of the node.
        threads: what the user lets a rank compute with; None: all its cores.

    Raises:
        UserError: a value that means nothing, or that asks for cores that are not there.
    """
    bound = len(mine) < online
    listed = re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", setting)
    if setting not in WORDS and not listed:
        match = nearest(setting, WORDS)
        raise UserError(
            f"{VARIABLE} = {setting!r}: allowed are {', '.join(WORDS)} and numbers of CPUs, as in 0,1"
            + (f"; did you mean {match!r}?" if match else "")
        )
    if listed:
        given = [int(number) for number in setting.split(",")]
        absent = [cpu for cpu in given if cpu >= online]
        if absent:
            raise UserError(f"{VARIABLE} = {setting!r}: there is no CPU {absent[0]} here; the last one is {online - 1}")
        rest = _share(frozenset(mine) - frozenset(given), bound, local_rank, local_size)
        if not rest:
            raise UserError(f"{VARIABLE} = {setting!r}: no CPU is left to compute on of {sorted(mine)}")
        return Cores(rest, frozenset([given[local_rank % len(given)]]))
    share = _share(frozenset(mine), bound, local_rank, local_size)
    if setting == "reserve":
        if len(share) < 2 or (not bound and len(mine) < 2 * local_size):
            raise UserError(
                f"{VARIABLE} = 'reserve': rank {local_rank} of this node's {local_size} has no two of the CPUs "
                f"{sorted(mine)}; write 'none', or start fewer ranks"
            )
        return Cores(share - {max(share)}, frozenset([max(share)]))
    spare = threads is not None and (len(mine) > threads if bound else len(mine) > threads * local_size)
    if setting == "none" or not spare:
        return Cores(frozenset(mine), None)
    if bound:
        return Cores(frozenset(mine) - {max(mine)}, frozenset([max(mine)]))
    return Cores(frozenset(mine), frozenset(mine))  # where the system sees fit: there is room


def _share(cpus: frozenset[int], bound: bool, local_rank: int, local_size: int) -> frozenset[int]:
    """This rank's of the CPUs that the node's ranks share; all of them where there is less than one each."""
    each = len(cpus) // local_size
    if bound or each == 0:
        return cpus
    return frozenset(sorted(cpus)[local_rank * each : (local_rank + 1) * each])
