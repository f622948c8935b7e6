"""The backend ``mpi4py`` of torch.distributed: its collectives and point-to-point calls, for CPU tensors.

A method checks and prepares its tensors on the caller's thread and enqueues a generator (transport.py,
reductions.py) for the engine; the Work it returns is completed there.
"""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from pyjpllm.distributed import hierarchy, reductions, runtime, transport
from pyjpllm.distributed.compat import with_all_names
from pyjpllm.distributed.engine import Operation, Steps
from pyjpllm.distributed.group import NAME, GroupOverMPI, Tensors
from pyjpllm.distributed.short_forms import with_short_forms
from pyjpllm.distributed.staging import Staging
from pyjpllm.distributed.transport import Communicator
from pyjpllm.distributed.work import MPIWork
from pyjpllm.errors import UserError


@with_all_names
@with_short_forms
class ProcessGroupMPI4Py(GroupOverMPI):
    """torch.distributed's calls over MPI."""

    # -- reductions

    def allreduce(self, tensors: Tensors, opts: Any = None) -> MPIWork:
        return self.allreduce_coalesced(tensors, opts, "allreduce")

    def allreduce_coalesced(self, tensors: Tensors, opts: Any = None, label: str = "allreduce_coalesced") -> MPIWork:
        if any(x.layout is not torch.strided for x in tensors):
            return self._allreduce_sparse(tensors, opts)
        reduction = _reduction(opts)
        staging = Staging()
        xs = [staging.update(x) for x in tensors]
        for x in xs:
            reductions.check(x, reduction)

        def steps(op: Operation) -> Steps:
            same = list(_by_dtype(xs))
            flats = xs if len(xs) == 1 else [torch.cat([x.view(-1) for x in of_type]) for of_type in same]
            sums = [
                functools.partial(reductions.all_reduce, self._c, op, flat, reduction, self._rt.deterministic)
                for flat in flats
            ]
            yield from transport.one_after_another(op, sums)
            if len(xs) > 1:
                for of_type, flat in zip(same, flats, strict=True):
                    for x, piece in zip(of_type, torch.split(flat, [x.numel() for x in of_type]), strict=True):
                        x.view(-1).copy_(piece)

        return self._collective(label, lambda op: staging.around(steps(op)), tensors, tensors, opts)

    def _allreduce_sparse(self, tensors: Tensors, opts: Any) -> MPIWork:
        (x,) = tensors
        reduction = _reduction(opts)
        if x.layout != torch.sparse_coo or reduction != reductions.Reduction("sum"):
            raise ValueError(f"mpi4py: allreduce takes sparse COO tensors with SUM only, not {x.layout}")
        return self._collective("allreduce", lambda op: reductions.all_reduce_sparse(self._c, op, x), tensors, [], opts)

    def reduce(self, tensors: Tensors, opts: Any) -> MPIWork:
        reduction, root = _reduction(opts), opts.rootRank
        staging = Staging()
        (tensor,) = tensors
        x = staging.update(tensor) if self._c.rank == root else staging.read(tensor)
        reductions.check(x, reduction)

        def steps(op: Operation) -> Steps:
            return staging.around(reductions.reduce(self._c, op, x, reduction, root, self._rt.deterministic))

        return self._collective("reduce", steps, tensors, tensors, opts)

    def reduce_scatter(self, outputs: Tensors, inputs: list[Tensors], opts: Any = None) -> MPIWork:
        return self._reduce_scatters(outputs, inputs, opts, "reduce_scatter")

    def reduce_scatter_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> MPIWork:
        return self.reduce_scatter_single_coalesced([output], [input], opts, "reduce_scatter_single")

    def reduce_scatter_single_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = None, label: str = "reduce_scatter_single_coalesced"
    ) -> MPIWork:
        staging = Staging()
        pieces = []
        for output, whole in zip(outputs, inputs, strict=True):
            if whole.numel() != output.numel() * self._c.size:
                raise ValueError(
                    f"mpi4py: {label}: the input's {whole.numel()} elements are not {self._c.size} times "
                    f"the output's {output.numel()}"
                )
            pieces.append(list(staging.read(whole).view(self._c.size, output.numel())))
        return self._reduce_scatters(outputs, pieces, opts, label)

    def _reduce_scatters(self, outputs: Tensors, inputs: list[Tensors], opts: Any, label: str) -> MPIWork:
        reduction = _reduction(opts)
        staging = Staging()
        pairs: list[tuple[torch.Tensor, Tensors]] = []
        for output, pieces in zip(outputs, inputs, strict=True):
            if len(pieces) != self._c.size or pieces[self._c.rank].numel() != output.numel():
                raise ValueError(f"mpi4py: {label}: needs one input a rank, this rank's of the output's size")
            pairs.append((staging.write(output), [staging.read(piece) for piece in pieces]))
            reductions.check(output, reduction)

        def steps(op: Operation) -> Steps:
            parts = [
                functools.partial(reductions.reduce_scatter, self._c, op, out, xs, reduction, self._rt.deterministic)
                for out, xs in pairs
            ]
            return staging.around(transport.one_after_another(op, parts))

        return self._collective(label, steps, outputs, outputs, opts)

    # -- movement

    def broadcast(self, tensors: Tensors, opts: Any) -> MPIWork:
        staging = Staging()
        root = opts.rootRank
        xs = [staging.read(x) if self._c.rank == root else staging.write(x) for x in tensors]

        def steps(op: Operation) -> Steps:
            parts = [functools.partial(transport.broadcast, self._c, op, x, root) for x in xs]
            return staging.around(transport.one_after_another(op, parts))

        return self._collective("broadcast", steps, tensors, tensors, opts)

    def allgather(self, outputs: list[Tensors], inputs: Tensors, opts: Any = None) -> MPIWork:
        flat = [x for outs in outputs for x in outs]
        return self._all_gathers(outputs, inputs, opts, "allgather", flat, Staging())

    def allgather_coalesced(self, output_lists: list[Tensors], inputs: Tensors, opts: Any = None) -> MPIWork:
        # Here there is one list a rank, of as many tensors as there are inputs.
        outputs = [[of_rank[i] for of_rank in output_lists] for i in range(len(inputs))]
        flat = [x for outs in output_lists for x in outs]
        return self._all_gathers(outputs, inputs, opts, "allgather_coalesced", flat, Staging())

    def all_gather_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> MPIWork:
        return self.all_gather_single_coalesced([output], [input], opts, "all_gather_single")

    def all_gather_single_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = None, label: str = "all_gather_single_coalesced"
    ) -> MPIWork:
        staging = Staging()
        lists: list[Tensors] = []
        for output, piece in zip(outputs, inputs, strict=True):
            if output.numel() != piece.numel() * self._c.size:
                raise ValueError(
                    f"mpi4py: {label}: the output's {output.numel()} elements are not {self._c.size} times "
                    f"the input's {piece.numel()}"
                )
            lists.append(list(staging.write(output).view(self._c.size, piece.numel())))
        return self._all_gathers(lists, inputs, opts, label, outputs, staging)

    def _all_gathers(
        self, outputs: list[Tensors], inputs: Tensors, opts: Any, label: str, shown: Tensors, staging: Staging
    ) -> MPIWork:
        pairs: list[tuple[Tensors, torch.Tensor]] = []
        for outs, x in zip(outputs, inputs, strict=True):
            if len(outs) != self._c.size or outs[self._c.rank].numel() != x.numel():
                raise ValueError(f"mpi4py: {label}: needs one output a rank, this rank's of the input's size")
            pairs.append(([staging.write(out) for out in outs], staging.read(x)))

        def steps(op: Operation) -> Steps:
            parts = [functools.partial(hierarchy.all_gather, self._c, op, outs, x) for outs, x in pairs]
            return staging.around(transport.one_after_another(op, parts))

        return self._collective(label, steps, shown, shown, opts)

    def gather(self, outputs: list[Tensors], inputs: Tensors, opts: Any) -> MPIWork:
        staging = Staging()
        root = opts.rootRank
        outs = [staging.write(out) for out in outputs[0]] if self._c.rank == root else None
        x = staging.read(inputs[0])

        def steps(op: Operation) -> Steps:
            return staging.around(transport.gather(self._c, op, outs, x, root))

        return self._collective("gather", steps, outputs[0] if outs is not None else [], inputs, opts)

    def scatter(self, outputs: Tensors, inputs: list[Tensors], opts: Any) -> MPIWork:
        staging = Staging()
        root = opts.rootRank
        xs = [staging.read(x) for x in inputs[0]] if self._c.rank == root else None
        out = staging.write(outputs[0])

        def steps(op: Operation) -> Steps:
            return staging.around(transport.scatter(self._c, op, out, xs, root))

        return self._collective("scatter", steps, outputs, outputs, opts)

    def alltoall(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> MPIWork:
        staging = Staging()
        outs = [staging.write(out) for out in outputs]
        xs = [staging.read(x) for x in inputs]
        return self._all_to_all("alltoall", staging, outs, xs, outputs, opts)

    def all_to_all_single(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_splits: Sequence[int] = (),
        input_splits: Sequence[int] = (),
        opts: Any = None,
    ) -> MPIWork:
        staging = Staging()
        outs = self._rows(staging.write(output), output_splits)
        xs = self._rows(staging.read(input), input_splits)
        return self._all_to_all("all_to_all_single", staging, outs, xs, [output], opts)

    def _all_to_all(
        self, label: str, staging: Staging, outs: Tensors, xs: Tensors, outputs: Tensors, opts: Any
    ) -> MPIWork:
        size, rank = self._c.size, self._c.rank
        if len(outs) != size or len(xs) != size or outs[rank].numel() != xs[rank].numel():
            raise ValueError(f"mpi4py: {label}: needs one input and one output a rank, this rank's of the same size")

        def steps(op: Operation) -> Steps:
            return staging.around(transport.all_to_all(self._c, op, outs, xs))

        return self._collective(label, steps, outputs, outputs, opts)

    def _rows(self, x: torch.Tensor, splits: Sequence[int]) -> Tensors:
        """``x`` cut along dimension 0; without splits, evenly."""
        rows = x.shape[0] if x.dim() else 0
        if not splits:
            if rows % self._c.size:
                raise ValueError(f"mpi4py: all_to_all_single: {rows} rows do not divide by {self._c.size} ranks")
            splits = [rows // self._c.size] * self._c.size
        if sum(splits) != rows or len(splits) != self._c.size:
            raise ValueError(f"mpi4py: all_to_all_single: splits {list(splits)} do not make up {rows} rows")
        return list(torch.split(x, list(splits)))

    # -- point to point, barriers

    def send(self, tensors: Tensors, rank: int, tag: int = 0) -> MPIWork:
        self._check_tag(tag)
        (x,) = (Staging().read(x) for x in tensors)
        label = f"send to rank {self.ranks[rank]}, tag {tag}, of "
        return self._message(label, lambda op: transport.send(self._c, x, rank, tag), tensors)

    def recv(self, tensors: Tensors, rank: int, tag: int = 0) -> MPIWork:
        return self._recv(tensors, rank, tag, f"recv from rank {self.ranks[rank]}, tag {tag}, of ")

    def recv_anysource(self, tensors: Tensors, tag: int = 0) -> MPIWork:
        return self._recv(tensors, None, tag, f"recv from any rank, tag {tag}, of ")

    def _recv(self, tensors: Tensors, rank: int | None, tag: int, label: str) -> MPIWork:
        self._check_tag(tag)
        staging = Staging()
        (x,) = (staging.write(x) for x in tensors)
        return self._message(label, lambda op: staging.around(transport.recv(self._c, op, x, rank, tag)), tensors)

    def _check_tag(self, tag: int) -> None:
        if not 0 <= tag < self._c.tag_limit:
            raise ValueError(f"mpi4py: tag {tag} is not in 0..{self._c.tag_limit - 1}")

    def barrier(self, opts: Any = None) -> MPIWork:
        return self._collective("barrier", lambda op: transport.barrier(self._c, op), [], [], opts)

    def monitored_barrier(self, timeout: datetime.timedelta | None = None, wait_all_ranks: bool = False) -> None:
        """A barrier that raises RuntimeError naming the ranks that have not come within ``timeout``.

        The first rank of the group does the naming; the others raise when it does not answer.
        ``wait_all_ranks``: name all the missing ranks, not only the first.
        """
        seconds = timeout.total_seconds() if timeout else self._timeout_s
        end = time.monotonic() + seconds
        token = torch.zeros(1, dtype=torch.uint8)
        # The watchdog must not come first: the caller may want to handle the error.
        outer, self._timeout_s = self._timeout_s, self._timeout_s + seconds
        try:
            tag = self._c.tag_limit - 1
            if self._c.rank != 0:
                self.send([token], 0, tag)
                self._wait_until(self.recv([token], 0, tag), end, f"rank {self.ranks[0]} has not answered")
                return
            missing = []
            arrivals = [(peer, self.recv([torch.zeros_like(token)], peer, tag)) for peer in range(1, self._c.size)]
            for peer, work in arrivals:
                try:
                    self._wait_until(work, end, "")
                except RuntimeError:
                    missing.append(self.ranks[peer])
                    if not wait_all_ranks:
                        end = 0.0
            if missing:
                named = missing if wait_all_ranks else missing[:1]
                raise RuntimeError(f"monitored_barrier: ranks {named} have not come within {seconds:g} s")
            for peer in range(1, self._c.size):
                self.send([token], peer, tag).wait()
        finally:
            self._timeout_s = outer

    def _wait_until(self, work: MPIWork, end: float, complaint: str) -> None:
        left = max(end - time.monotonic(), 1e-3)
        try:
            work.wait(datetime.timedelta(seconds=left))
        except RuntimeError as error:
            self._rt.engine.cancel(work)
            raise RuntimeError(f"monitored_barrier: {complaint}") from error

    # -- groups

    def split_group(
        self,
        ranks: Sequence[int],
        timeout: datetime.timedelta | None = None,
        opts: Any = None,
        group_name: str | None = None,
        group_desc: str | None = None,
        device_types: Any = None,
    ) -> ProcessGroupMPI4Py | None:
        """A new group of ``ranks`` (counted in this group), for its members; None for the others."""
        if self._c.rank not in ranks:
            return None
        members = [self.ranks[rank] for rank in ranks]
        name = group_name or f"{self._name}:split:{members}"
        limit = timeout or datetime.timedelta(seconds=self._timeout_s)
        group = make_group(self._rt, members, name, limit)
        group._set_group_desc(group_desc or f"{self._description}:split")
        return group


def _reduction(opts: Any) -> reductions.Reduction:
    return reductions.parse(opts.reduceOp if opts is not None else dist.ReduceOp.SUM)


def _by_dtype(xs: Tensors) -> Iterator[Tensors]:
    return ([x for x in xs if x.dtype == dtype] for dtype in dict.fromkeys(x.dtype for x in xs))


def make_group(rt: runtime.Runtime, ranks: Sequence[int], name: str, timeout: datetime.timedelta) -> ProcessGroupMPI4Py:
    """Create a group together with its other members, and wait for them."""
    box: list[Communicator] = []
    label = f"new_group {name!r} of world ranks {list(ranks)}"
    work = MPIWork([], rt.engine, label)
    op = Operation(work, None, lambda: label, None, 0, time.monotonic() + timeout.total_seconds())
    rt.engine.submit(op, rt.communicator_steps(ranks, name, box))
    work.wait()
    return ProcessGroupMPI4Py(rt, box[0], name, ranks, timeout)


def create(options: Any, backend_options: Any = None) -> ProcessGroupMPI4Py:
    """What torch calls for every new group, on its members."""
    rt = runtime.start()
    if options.group_size > rt.size:
        raise UserError(f"torch.distributed wants {options.group_size} ranks but MPI has {rt.size}: start with mpirun")
    ranks = list(options.global_ranks_in_group) or list(range(options.group_size))
    return make_group(rt, ranks, options.group_id, options.timeout)


dist.Backend.register_backend(NAME, create, extended_api=True, devices=["cpu"])
