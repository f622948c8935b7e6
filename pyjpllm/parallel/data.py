"""Data parallelism: gradients summed over replicas in buckets while backward goes on, and the global gradient norm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import distributed as dist

from pyjpllm import ops
from pyjpllm.distributed import Mesh, collectives
from pyjpllm.parallel.flat import Bucket, FlatEntry, FlatGroup, FlatParameters


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

    Args:
        flat: the parameters, alike on all ranks that hold the same ones.
        mesh: the ranks; None with one.
        overlap: send during backward; without, all buckets travel in :meth:`finish`.
    """

    def __init__(self, flat: FlatParameters, mesh: Mesh | None = None, *, overlap: bool = True) -> None:
        self.flat, self.overlap = flat, overlap
        self._groups = [None if mesh is None else mesh.group(bucket.group.replicas) for bucket in flat.buckets]
        self._bucket_of = {entry.name: i for i, bucket in enumerate(flat.buckets) for entry in bucket.entries}
        self._partial = _partial_gradients(flat)
        self._failed = False
        self._start_step()
        flat.listen(self._ready)

    def _start_step(self) -> None:
        self._last: AbstractSet[str] = frozenset()
        self._missing = [{entry.name for entry in bucket.entries} for bucket in self.flat.buckets]
        self._sent: list[tuple[Bucket, Any]] = []

    @contextlib.contextmanager
    def accumulate(self, last: bool, names: AbstractSet[str] | None = None) -> Iterator[None]:
        """Around the backward of one micro-batch; ``last`` for the last one before :meth:`finish`.

        ``names``: the parameters for which it is the last, where it is not for all; those of them that got nothing by
        its end are done as well.

        An exception from inside passes through; the step cannot be finished then, for some buckets may have left
        with half a gradient: ``finish`` refuses, and the rank should end (which ends the job).
        """
        if len(self._last) == len(self._bucket_of):
            raise RuntimeError("accumulate() after the last micro-batch: finish() comes first")
        ends = (self._bucket_of.keys() if names is None else names) if last else frozenset()
        self._last = self._last | ends
        try:
            yield
        except BaseException:
            self._failed = True
            raise
        if names is not None:
            for name in ends:
                self._missing[self._bucket_of[name]].discard(name)
            self._send_complete()

    def _ready(self, entry: FlatEntry) -> None:
        """A gradient of this rank was added to the sum: send what is complete, in order."""
        index = self._bucket_of[entry.name]
        if index < len(self._sent):
            raise RuntimeError(
                f"a gradient of {entry.name} came after its bucket had been sent: "
                "in the last micro-batch backward runs once"
            )
        if entry.name in self._last:
            self._missing[index].discard(entry.name)
            self._send_complete()

    def _send_complete(self) -> None:
        """Send the buckets that are next in the order, as far as they are complete."""
        while self.overlap and len(self._sent) < len(self._missing) and not self._missing[len(self._sent)]:
            self._send()

    def _send(self) -> None:
        index = len(self._sent)
        bucket, group = self.flat.buckets[index], self._groups[index]
        work = None if group is None else collectives.all_reduce(bucket.grad, group, async_op=True)
        self._sent.append((bucket, work))

    def finish(self) -> None:
        """Wait until every gradient is the sum over all ranks that made parts of it."""
        if self._failed:
            raise RuntimeError("the backward of this step failed: its gradients are not whole on every rank")
        while len(self._sent) < len(self.flat.buckets):
            self._send()
        for bucket, work in self._sent:
            try:
                if work is not None:
                    work.wait()
            except Exception as error:
                self._failed = True
                raise RuntimeError(f"the sum of the gradients of {bucket} over their replicas failed") from error
        for group, parts in self._partial:
            joined = torch.cat([buffers.grad[entry.start : entry.stop] for buffers, entry in parts])
            collectives.all_reduce(joined, group)
            pieces = torch.split(joined, [entry.stop - entry.start for _, entry in parts])
            for (buffers, entry), piece in zip(parts, pieces, strict=True):
                buffers.grad[entry.start : entry.stop].copy_(piece)
        self._start_step()


def _partial_gradients(
    flat: FlatParameters,
) -> list[tuple[dist.ProcessGroup, list[tuple[FlatGroup, FlatEntry]]]]:
    """The parameters of which ranks make parts of the gradient, by group of ranks, in an order alike on all ranks."""
    parts: dict[dist.ProcessGroup, list[tuple[FlatGroup, FlatEntry]]] = {}
    for buffers, entry in flat.entries():
        if entry.layout.grad_group is not None:
            parts.setdefault(entry.layout.grad_group, []).append((buffers, entry))
    return list(parts.items())


def global_grad_norm(flat: FlatParameters, mesh: Mesh) -> float:
    """The 2-norm of the whole gradient, the same number on all ranks; after :meth:`DataParallel.finish`.

    Squares are summed in FP64, a piece that ``copies`` ranks hold counts once. On the meta device, where there are no
    values, it is 0.
    """
    dense, experts = torch.zeros(2, dtype=torch.float64, device=flat.device).unbind()
    for group, entry in flat.entries():
        total = dense if group.replicas == "replicas" else experts
        total += ops.sum_of_squares(group.grad[entry.start : entry.stop]) / entry.layout.copies
    collectives.all_reduce(experts, mesh.group("ep"))
    total = dense + experts
    collectives.all_reduce(total, mesh.group("tp"))
    collectives.all_reduce(total, mesh.group("pp"))
    collectives.broadcast(total, mesh.group("replicas"))  # they must take the same decision, down to the last bit
    return 0.0 if total.is_meta else float(total.sqrt())
