"""Data parallelism: gradients summed over replicas in buckets while backward goes on, and the global gradient norm."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import torch

from pyjpllm import ops
from pyjpllm.distributed import Mesh, collectives
from pyjpllm.parallel.flat import FlatEntry, FlatParameters, Parameters
from pyjpllm.parallel.zero import GradientSum

UNDER_WAY = 2
"""With ZeRO-2 at most so many buckets travel at once: each of them is memory."""


class DataParallel:
    """Sums the flat gradients of ``flat`` over the ranks that hold the same parameters.

    A step is::

        for i, batch in enumerate(micro_batches):
            with dp.accumulate(last=i == len(micro_batches) - 1):
                (loss(batch) / tokens_of_the_global_batch).backward()
        dp.finish()

    Gradients add up locally; during the last backward a bucket travels as soon as its parameters are done. Buckets
    travel in one fixed order, whatever order backward runs in, and those whose parameters got no gradient travel in
    :meth:`finish` (as zeros, or what earlier micro-batches gave), so ranks whose graphs differ still agree. The sum
    is not divided: the loss is, by a count over all ranks. In a pipeline a rank goes through its chunks in turn: then
    ``accumulate`` is told of which parameters a backward is the last, and their buckets travel while others compute.

    With ZeRO a rank gets the sums of its parts alone. From stage 2 on no rank keeps more: the buckets of every
    micro-batch travel, and are freed.

    Args:
        flat: the parameters, alike on all ranks that hold the same ones.
        mesh: the ranks; None with one.
        overlap: send during backward; without, all buckets travel at its end.
        dtype: a 16-bit type in which gradients travel; None: as they are summed.
    """

    def __init__(
        self,
        flat: FlatParameters,
        mesh: Mesh | None = None,
        *,
        overlap: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.flat, self.overlap, self.dtype = flat, overlap, dtype
        self._groups = [None if mesh is None else mesh.group(bucket.group.replicas) for bucket in flat.buckets]
        self._bucket_of = {entry.name: i for i, bucket in enumerate(flat.buckets) for entry in bucket.entries}
        # Buckets from here on wait for other ranks' gradients.
        self._early = sum(bucket.group.grad_group is None for bucket in flat.buckets)
        self._every_time = flat.zero == 2
        self._failed = False
        self._under_way: deque[GradientSum] = deque()
        self._start_step()
        flat.listen(self._ready)

    def _start_step(self) -> None:
        self._last: AbstractSet[str] = frozenset()
        self._start_sending()

    def _start_sending(self) -> None:
        self._missing = [{entry.name for entry in bucket.entries} for bucket in self.flat.buckets]
        self._sent = 0

    @contextlib.contextmanager
    def accumulate(self, last: bool, names: AbstractSet[str] | None = None) -> Iterator[None]:
        """Around the backward of one micro-batch; ``last`` for the last one before :meth:`finish`.

        ``names``: the parameters for which it is the last, where it is not for all; those of them that got nothing by
        its end are done as well.

        An exception from inside passes through; the step cannot be finished then, for some buckets may have left
        with half a gradient: ``finish`` refuses, and the rank should end (which ends the job).
        """
        mine = self._bucket_of.keys() if names is None else names
        if mine and mine <= self._last:  # a chunk without parameters has no last time
            raise RuntimeError("accumulate() after the last micro-batch: finish() comes first")
        ends = mine if last else frozenset()
        if self._every_time and names is not None:
            raise ValueError("ZeRO-2 sends every backward's gradients whole: not those of some parameters")
        self._last = self._last | ends
        if self._every_time:
            self._start_sending()
        try:
            yield
        except BaseException:
            self._failed = True
            raise
        if self._every_time:
            self._send_up_to(self._early)
        if names is not None:
            for name in ends:
                self._missing[self._bucket_of[name]].discard(name)
            self._send_complete()

    def _ready(self, entry: FlatEntry) -> None:
        """A gradient of this rank was added to the sum: send what is complete, in order."""
        index = self._bucket_of[entry.name]
        if index < self._sent:
            raise RuntimeError(
                f"a gradient of {entry.name} came after its bucket had been sent: "
                f"in {'a' if self._every_time else 'the last'} micro-batch backward runs once"
            )
        if self._every_time or entry.name in self._last:
            self._missing[index].discard(entry.name)
            self._send_complete()

    def _send_complete(self) -> None:
        """Send the buckets that are next in the order, as far as they are complete."""
        while self.overlap and self._sent < self._early and not self._missing[self._sent]:
            self._send_up_to(self._sent + 1)

    def _send_up_to(self, end: int) -> None:
        while self._sent < end:
            while self._every_time and len(self._under_way) >= UNDER_WAY:
                self._arrive()
            bucket, group = self.flat.buckets[self._sent], self._groups[self._sent]
            self._sent += 1
            self._under_way.append(GradientSum(bucket, group, self.dtype))

    def _arrive(self) -> None:
        oldest = self._under_way.popleft()
        try:
            oldest.wait()
        except Exception as error:
            self._failed = True
            raise RuntimeError(f"the sum of the gradients of {oldest.bucket} over their replicas failed") from error

    def finish(self) -> None:
        """Wait until every gradient that this rank steps is the sum over all ranks that made parts of it."""
        if self._failed:
            raise RuntimeError("the backward of this step failed: its gradients are not whole on every rank")
        self._send_up_to(self._early)
        for group in self.flat.groups:
            if group.grad_group is not None:
                collectives.all_reduce(group.grad, group.grad_group)
        self._send_up_to(len(self.flat.buckets))
        while self._under_way:
            self._arrive()
        self._start_step()


def global_grad_norm(flat: Parameters, mesh: Mesh) -> float:
    """The 2-norm of the whole gradient, the same number on all ranks; after :meth:`DataParallel.finish`.

    Squares are summed in FP64, a piece that ``copies`` ranks hold counts once. On the meta device, where there are no
    values, it is 0.
    """
    dense, experts = torch.zeros(2, dtype=torch.float64, device=flat.device).unbind()
    for group in flat.groups:
        total = dense if group.replicas == "replicas" else experts
        for part in group.parts:
            for entry, start, stop in part.overlaps():
                squares = ops.sum_of_squares(part.grad[start - part.start : stop - part.start])
                total += squares / entry.layout.copies
    if flat.zero:
        collectives.all_reduce(dense, mesh.group("replicas"))
        collectives.all_reduce(experts, mesh.group("expert_replicas"))
    collectives.all_reduce(experts, mesh.group("ep"))
    total = dense + experts
    collectives.all_reduce(total, mesh.group("tp"))
    collectives.all_reduce(total, mesh.group("pp"))
    collectives.broadcast(total, mesh.group("replicas"))  # they must take the same decision, down to the last bit
    return 0.0 if total.is_meta else float(total.sqrt())
