"""Who a process group is, for torch: names, rank, size, and the enqueueing of operations. No collectives here."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from pyjpllm.distributed import runtime
from pyjpllm.distributed.engine import Lane, Operation, Steps
from pyjpllm.distributed.progress import group_key
from pyjpllm.distributed.transport import Communicator
from pyjpllm.distributed.work import MPIWork, WorkList

NAME = "mpi4py"
Tensors = list[torch.Tensor]
# torch's stubs overload every method by its short and long form (short_forms.py), which an override cannot repeat.
_ProcessGroup: Any = dist.ProcessGroup


class GroupOverMPI(_ProcessGroup):  # type: ignore[misc]
    """A group of ``ranks`` (counted in the world) on the communicator ``c``, which its members created together.

    Collectives are numbered from 1; point-to-point operations, of which ranks may make different numbers, are not.
    """

    supports_coalescing = False
    supports_splitting = False

    def __init__(
        self, rt: runtime.Runtime, c: Communicator, name: str, ranks: Sequence[int], timeout: datetime.timedelta
    ) -> None:
        super().__init__(c.rank, c.size)
        self._rt = rt
        self._c = c
        self._lane = Lane()
        self._timeout_s = timeout.total_seconds()
        self._sequence = 0
        self._name = name
        self._description = "undefined"
        self._coalescing: list[Any] | None = None
        self.ranks = list(ranks)
        self.key = group_key(f"{name}/{rt.count_of(name)}")

    # -- identity

    def rank(self) -> int:
        return self._c.rank

    def size(self) -> int:
        return self._c.size

    def name(self) -> str:
        return NAME

    @property
    def group_name(self) -> str:
        return self._name

    @property
    def group_desc(self) -> str:
        return self._description

    def _set_group_name(self, name: str) -> None:
        self._name = name

    def _set_group_desc(self, description: str) -> None:
        self._description = description

    def _get_backend(self, device: torch.device) -> GroupOverMPI:
        return self

    def _get_backend_name(self) -> str:
        return NAME

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")]

    # The same answers under the names by which torch's C++ side asks.

    def getBackendName(self) -> str:
        return NAME

    def getRank(self) -> int:
        return self._c.rank

    def getSize(self) -> int:
        return self._c.size

    def getGroupName(self) -> str:
        return self._name

    def getGroupDesc(self) -> str:
        return self._description

    def setGroupName(self, name: str) -> None:
        self._name = name

    def setGroupDesc(self, description: str) -> None:
        self._description = description

    # -- life

    def set_timeout(self, timeout: datetime.timedelta) -> None:
        """Seconds that every later operation may take."""
        self._timeout_s = timeout.total_seconds()

    def shutdown(self) -> None:
        """Nothing to do: communicators end with MPI, and one rank may drop a group before another does."""

    def abort(self) -> None:
        """As ``shutdown``: an MPI operation under way cannot be taken back."""

    def _has_hooks(self) -> bool:
        return False

    def _wait_for_pending_works(self) -> None:
        for operation in list(self._rt.engine.pending.values()):
            if operation.group is self:
                operation.work.wait()

    def _get_sequence_number_for_group(self) -> int:
        return self._sequence

    def _set_sequence_number_for_group(self) -> None:
        """All members count the same calls from 0: there is nothing to agree on."""

    def _start_coalescing(self, device: torch.device) -> None:
        self._coalescing = []

    def _end_coalescing(self, device: torch.device) -> WorkList:
        works, self._coalescing = self._coalescing or [], None
        return WorkList(works)

    # -- enqueueing

    def _collective(
        self, label: str, make_steps: Callable[[Operation], Steps], outputs: Tensors, shown: Tensors, opts: Any
    ) -> MPIWork:
        """Enqueue a collective: it starts after those enqueued before it on this group."""
        self._sequence += 1
        self._rt.publish_enqueued(self.key, self._sequence, label)
        return self._submit(label, make_steps, outputs, shown, self._lane, self._sequence, opts)

    def _message(self, label: str, make_steps: Callable[[Operation], Steps], tensors: Tensors) -> MPIWork:
        """Enqueue a point-to-point operation: it starts at once."""
        return self._submit(label, make_steps, tensors, tensors, None, 0, None)

    def _submit(
        self,
        label: str,
        make_steps: Callable[[Operation], Steps],
        outputs: Tensors,
        shown: Tensors,
        lane: Lane | None,
        sequence: int,
        opts: Any,
    ) -> MPIWork:
        engine = self._rt.engine
        work = MPIWork(outputs, engine, label)
        timeout = opts.timeout.total_seconds() if opts is not None else 0.0
        deadline = time.monotonic() + (timeout if timeout > 0 else self._timeout_s)
        operation = Operation(work, lane, lambda: f"{label}{_shapes(shown)}", self, sequence, deadline)
        engine.submit(operation, make_steps(operation))
        if self._coalescing is not None:
            self._coalescing.append(work)
        return work


def _shapes(tensors: Tensors) -> str:
    shown = ", ".join(f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}" for x in tensors[:3])
    more = f", {len(tensors) - 3} more" if len(tensors) > 3 else ""
    return f"({shown}{more})"
