"""The backend ``mpi4py`` of torch.distributed: a process group on MPI, for CPU tensors.

A method here checks and prepares its tensors on the caller's thread and enqueues a generator (transport.py,
reductions.py) on the communication thread; the Work it returns is completed there. ``P``: ranks of the group.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import register_rendezvous_handler

from pyjpllm.distributed import launch as launching
from pyjpllm.distributed import reductions, runtime, transport
from pyjpllm.distributed.comm_thread import Lane, Operation, Steps
from pyjpllm.distributed.compat import with_all_names
from pyjpllm.distributed.store import LazyFileStore
from pyjpllm.distributed.transport import Communicator
from pyjpllm.distributed.work import MPIWork, WorkList
from pyjpllm.errors import UserError

NAME = "mpi4py"
Tensors = list[torch.Tensor]


class _Staged:
    """Contiguous stand-ins for tensors that are not: copied in before, copied back after."""

    def __init__(self) -> None:
        self._back: list[tuple[torch.Tensor, torch.Tensor]] = []

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """A contiguous tensor with the content of ``x``."""
        return _plain(x).contiguous()

    def write(self, x: torch.Tensor) -> torch.Tensor:
        """A contiguous tensor whose content ends up in ``x``."""
        x = _plain(x)
        if x.is_contiguous():
            return x
        stand_in = torch.empty_like(x, memory_format=torch.contiguous_format)
        self._back.append((x, stand_in))
        return stand_in

    def update(self, x: torch.Tensor) -> torch.Tensor:
        """Both: for operations in place."""
        stand_in = self.write(x)
        if stand_in is not x and self._back and self._back[-1][1] is stand_in:
            stand_in.copy_(_plain(x))
        return stand_in

    def around(self, steps: Steps) -> Steps:
        yield from steps
        for x, stand_in in self._back:
            x.copy_(stand_in)


def _plain(x: torch.Tensor) -> torch.Tensor:
    if x.device.type != "cpu" or x.layout != torch.strided:
        raise ValueError(f"mpi4py: needs dense CPU tensors, not {x.layout} on {x.device}")
    x = x.detach()
    if x.is_conj() or x.is_neg():
        x = x.resolve_conj().resolve_neg()
    return x


@with_all_names
class ProcessGroupMPI4Py(dist.ProcessGroup):
    """A process group over MPI communicators that only its members created."""

    supports_coalescing = False
    supports_splitting = False

    def __init__(
        self, rt: runtime.Runtime, c: Communicator, name: str, ranks: Sequence[int], timeout: datetime.timedelta
    ) -> None:
        super().__init__(c.rank, c.size)
        self._rt = rt
        self._c = c
        self._lane = Lane()
        self._ranks = list(ranks)
        self._timeout_s = timeout.total_seconds()
        self._sequence = 0
        self._name = name
        self._description = "undefined"
        self._coalescing: list[Any] | None = None

    # -- who we are

    def getBackendName(self) -> str:
        return NAME

    def name(self) -> str:
        return NAME

    def getRank(self) -> int:
        return self._c.rank

    def getSize(self) -> int:
        return self._c.size

    def rank(self) -> int:
        return self._c.rank

    def size(self) -> int:
        return self._c.size

    def getGroupName(self) -> str:
        return self._name

    def _set_group_name(self, name: str) -> None:
        self._name = name

    def getGroupDesc(self) -> str:
        return self._description

    def _set_group_desc(self, description: str) -> None:
        self._description = description

    @property
    def group_name(self) -> str:
        return self._name

    @property
    def group_desc(self) -> str:
        return self._description

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")]

    def _get_backend(self, device: torch.device) -> ProcessGroupMPI4Py:
        return self

    def _get_backend_name(self) -> str:
        return NAME

    def _has_hooks(self) -> bool:
        return False

    def set_timeout(self, timeout: datetime.timedelta) -> None:
        self._timeout_s = timeout.total_seconds()

    def _get_sequence_number_for_group(self) -> int:
        return self._sequence

    def _set_sequence_number_for_group(self) -> None:
        """All members count the same calls from 0: there is nothing to agree on."""

    def shutdown(self) -> None:
        """Nothing to do: communicators end with MPI, and a group may be dropped by one rank before another."""

    abort = shutdown

    # -- enqueueing

    def _enqueue(
        self,
        make_steps: Callable[[Operation], Steps],
        outputs: Tensors,
        label: str,
        shown: Tensors,
        opts: Any = None,
        lane: Lane | None = None,
    ) -> MPIWork:
        thread = self._rt.thread
        self._sequence += 1
        sequence = self._sequence
        work = MPIWork(outputs, thread.waiters, label)
        seconds = self._timeout_s
        timeout = getattr(opts, "timeout", None)
        if timeout is not None and timeout.total_seconds() > 0:
            seconds = timeout.total_seconds()
        operation = Operation(
            work, lane, lambda: f"{label}{_shapes(shown)}", self, sequence, time.monotonic() + seconds
        )
        thread.submit(operation, make_steps(operation))
        if self._coalescing is not None:
            self._coalescing.append(work)
        return work

    def _start_coalescing(self, device: torch.device) -> None:
        self._coalescing = []

    def _end_coalescing(self, device: torch.device) -> WorkList:
        works, self._coalescing = self._coalescing or [], None
        return WorkList(works)

    # -- reductions

    def allreduce(self, tensors: Tensors, opts: Any = None) -> MPIWork:
        return self.allreduce_coalesced(tensors, opts, "allreduce")

    def allreduce_coalesced(self, tensors: Tensors, opts: Any = None, label: str = "allreduce_coalesced") -> MPIWork:
        reduction = reductions.parse(opts.reduceOp if opts is not None else dist.ReduceOp.SUM)
        staged = _Staged()
        xs = [staged.update(_real_bits(x, reduction)) for x in tensors]
        for x in xs:
            reductions.check(x, reduction)

        def steps(op: Operation) -> Steps:
            if len(xs) == 1:
                yield from reductions.all_reduce(self._c, op, xs[0], reduction, self._rt.deterministic)
                return
            for same in _by_dtype(xs):
                flat = torch.cat([x.view(-1) for x in same])
                yield from reductions.all_reduce(self._c, op, flat, reduction, self._rt.deterministic)
                op.tail = False
                for x, piece in zip(same, flat.split([x.numel() for x in same]), strict=True):
                    x.view(-1).copy_(piece)

        return self._enqueue(lambda op: staged.around(steps(op)), tensors, label, tensors, opts, self._lane)

    def reduce(self, tensors: Tensors, opts: Any) -> MPIWork:
        reduction = reductions.parse(opts.reduceOp)
        staged = _Staged()
        (x,) = tensors
        root = opts.rootRank
        x = staged.update(x) if self._c.rank == root else staged.read(x)
        reductions.check(x, reduction)

        def steps(op: Operation) -> Steps:
            return staged.around(reductions.reduce(self._c, op, x, reduction, root, self._rt.deterministic))

        return self._enqueue(steps, tensors, "reduce", tensors, opts, self._lane)

    def reduce_scatter(self, outputs: Tensors, inputs: list[Tensors], opts: Any = None) -> MPIWork:
        return self._reduce_scatters(outputs, inputs, opts, "reduce_scatter")

    def reduce_scatter_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> MPIWork:
        return self.reduce_scatter_single_coalesced([output], [input], opts, "reduce_scatter_single")

    def reduce_scatter_single_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = None, label: str = "reduce_scatter_single_coalesced"
    ) -> MPIWork:
        size = self._c.size
        for output, whole in zip(outputs, inputs, strict=True):
            if whole.numel() != output.numel() * size:
                raise ValueError(
                    f"mpi4py: {label}: input of {whole.numel()} elements is not {size} times the output's {output.numel()}"
                )
        pieces = [list(_plain(whole).contiguous().view(-1).chunk(size)) if whole.numel() else
                  [whole.new_empty(0)] * size for whole in inputs]  # fmt: skip
        return self._reduce_scatters(outputs, pieces, opts, label)

    def _reduce_scatters(self, outputs: Tensors, inputs: list[Tensors], opts: Any, label: str) -> MPIWork:
        reduction = reductions.parse(opts.reduceOp if opts is not None else dist.ReduceOp.SUM)
        staged = _Staged()
        pairs: list[tuple[torch.Tensor, Tensors]] = []
        for output, pieces in zip(outputs, inputs, strict=True):
            if len(pieces) != self._c.size or pieces[self._c.rank].numel() != output.numel():
                raise ValueError(f"mpi4py: {label}: needs one input a rank, this rank's of the output's size")
            pairs.append((staged.write(output), [staged.read(piece) for piece in pieces]))
            reductions.check(output, reduction)

        def steps(op: Operation) -> Steps:
            for out, xs in pairs:
                yield from reductions.reduce_scatter(self._c, op, out, xs, reduction, self._rt.deterministic)
                op.tail = False

        return self._enqueue(lambda op: staged.around(steps(op)), outputs, label, outputs, opts, self._lane)

    # -- movement

    def broadcast(self, tensors: Tensors, opts: Any) -> MPIWork:
        staged = _Staged()
        root = opts.rootRank
        xs = [staged.read(x) if self._c.rank == root else staged.write(x) for x in tensors]

        def steps(op: Operation) -> Steps:
            for x in xs:
                yield from transport.broadcast(self._c, op, x, root)
                op.tail = False

        return self._enqueue(lambda op: staged.around(steps(op)), tensors, "broadcast", tensors, opts, self._lane)

    def allgather(self, outputs: list[Tensors], inputs: Tensors, opts: Any = None) -> MPIWork:
        return self._all_gathers(outputs, inputs, opts, "allgather", [x for outs in outputs for x in outs])

    def allgather_coalesced(self, output_lists: list[Tensors], inputs: Tensors, opts: Any = None) -> MPIWork:
        # One list a rank here, of as many tensors as there are inputs.
        outputs = [[of_rank[i] for of_rank in output_lists] for i in range(len(inputs))]
        flat = [x for outs in output_lists for x in outs]
        return self._all_gathers(outputs, inputs, opts, "allgather_coalesced", flat)

    def all_gather_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> MPIWork:
        return self.all_gather_single_coalesced([output], [input], opts, "all_gather_single")

    def all_gather_single_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = None, label: str = "all_gather_single_coalesced"
    ) -> MPIWork:
        size = self._c.size
        staged = _Staged()
        lists: list[Tensors] = []
        for output, piece in zip(outputs, inputs, strict=True):
            if output.numel() != piece.numel() * size:
                raise ValueError(
                    f"mpi4py: {label}: output of {output.numel()} elements is not {size} times the input's {piece.numel()}"
                )
            flat = staged.write(output).view(-1)
            lists.append(list(flat.chunk(size)) if flat.numel() else [flat] * size)
        return self._all_gathers(lists, inputs, opts, label, outputs, staged)

    def _all_gathers(
        self,
        outputs: list[Tensors],
        inputs: Tensors,
        opts: Any,
        label: str,
        shown: Tensors,
        staged: _Staged | None = None,
    ) -> MPIWork:
        staged = staged or _Staged()
        pairs: list[tuple[Tensors, torch.Tensor]] = []
        for outs, x in zip(outputs, inputs, strict=True):
            if len(outs) != self._c.size or outs[self._c.rank].numel() != x.numel():
                raise ValueError(f"mpi4py: {label}: needs one output a rank, this rank's of the input's size")
            pairs.append(([staged.write(out) for out in outs], staged.read(x)))

        def steps(op: Operation) -> Steps:
            for outs, x in pairs:
                yield from transport.all_gather(self._c, op, outs, x)
                op.tail = False

        return self._enqueue(lambda op: staged.around(steps(op)), shown, label, shown, opts, self._lane)

    def gather(self, outputs: list[Tensors], inputs: Tensors, opts: Any) -> MPIWork:
        staged = _Staged()
        root = opts.rootRank
        outs = [staged.write(out) for out in outputs[0]] if self._c.rank == root else None
        x = staged.read(inputs[0])
        shown = outputs[0] if outputs else []
        return self._enqueue(
            lambda op: staged.around(transport.gather(self._c, op, outs, x, root)),
            shown, "gather", inputs, opts, self._lane,
        )  # fmt: skip

    def scatter(self, outputs: Tensors, inputs: list[Tensors], opts: Any) -> MPIWork:
        staged = _Staged()
        root = opts.rootRank
        xs = [staged.read(x) for x in inputs[0]] if self._c.rank == root else None
        out = staged.write(outputs[0])
        return self._enqueue(
            lambda op: staged.around(transport.scatter(self._c, op, out, xs, root)),
            outputs, "scatter", outputs, opts, self._lane,
        )  # fmt: skip

    def alltoall(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> MPIWork:
        staged = _Staged()
        outs = [staged.write(out) for out in outputs]
        xs = [staged.read(x) for x in inputs]
        return self._enqueue(
            lambda op: staged.around(transport.all_to_all(self._c, op, outs, xs)),
            outputs, "alltoall", outputs, opts, self._lane,
        )  # fmt: skip

    def all_to_all_single(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_splits: Sequence[int] = (),
        input_splits: Sequence[int] = (),
        opts: Any = None,
    ) -> MPIWork:
        staged = _Staged()
        outs = self._rows(staged.write(output), output_splits)
        xs = self._rows(staged.read(input), input_splits)
        return self._enqueue(
            lambda op: staged.around(transport.all_to_all(self._c, op, outs, xs)),
            [output], "all_to_all_single", [output], opts, self._lane,
        )  # fmt: skip

    def _rows(self, x: torch.Tensor, splits: Sequence[int]) -> Tensors:
        """``x`` cut along dimension 0; no splits: evenly."""
        rows = x.shape[0] if x.dim() else 0
        if not splits:
            if rows % self._c.size:
                raise ValueError(f"mpi4py: all_to_all_single: {rows} rows do not divide by {self._c.size} ranks")
            splits = [rows // self._c.size] * self._c.size
        if sum(splits) != rows or len(splits) != self._c.size:
            raise ValueError(f"mpi4py: all_to_all_single: splits {list(splits)} do not make up {rows} rows")
        return list(x.split(list(splits)))

    # -- point to point, barriers

    def send(self, tensors: Tensors, rank: int, tag: int = 0) -> MPIWork:
        (x,) = (_plain(x).contiguous() for x in tensors)
        return self._enqueue(lambda op: transport.send(self._c, x, rank, tag), tensors, f"send to {rank}", tensors)

    def recv(self, tensors: Tensors, rank: int, tag: int = 0) -> MPIWork:
        return self._recv(tensors, rank, tag, f"recv from {rank}")

    def recv_anysource(self, tensors: Tensors, tag: int = 0) -> MPIWork:
        return self._recv(tensors, None, tag, "recv from any")

    def _recv(self, tensors: Tensors, rank: int | None, tag: int, label: str) -> MPIWork:
        staged = _Staged()
        (x,) = (staged.write(x) for x in tensors)
        return self._enqueue(
            lambda op: staged.around(transport.recv(self._c, op, x, rank, tag)), tensors, label, tensors
        )

    def barrier(self, opts: Any = None) -> MPIWork:
        return self._enqueue(lambda op: transport.barrier(self._c, op), [], "barrier", [], opts, self._lane)


def _real_bits(x: torch.Tensor, reduction: reductions.Reduction) -> torch.Tensor:
    return x


def _by_dtype(xs: Tensors) -> Iterator[Tensors]:
    dtypes = dict.fromkeys(x.dtype for x in xs)
    return ([x for x in xs if x.dtype == dtype] for dtype in dtypes)


def _shapes(tensors: Tensors) -> str:
    shown = ", ".join(f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}" for x in tensors[:3])
    more = f", {len(tensors) - 3} more" if len(tensors) > 3 else ""
    return f"({shown}{more})"


def _create(options: Any, backend_options: Any = None) -> ProcessGroupMPI4Py:
    """Called by torch for every new group, on its members."""
    rt = runtime.start()
    name = options.group_id
    ranks = list(options.global_ranks_in_group) or list(range(options.group_size))
    if options.group_size > rt.size:
        raise UserError(f"torch.distributed wants {options.group_size} ranks but MPI has {rt.size}: start with mpirun")
    box: list[Communicator] = []
    work = MPIWork([], rt.thread.waiters, f"new_group {name}")
    deadline = time.monotonic() + options.timeout.total_seconds()
    op = Operation(work, None, lambda: f"new_group of ranks {ranks}", None, 0, deadline)
    rt.thread.submit(op, rt.communicator_steps(op, ranks, name, box))
    work.wait()
    return ProcessGroupMPI4Py(rt, box[0], name, ranks, options.timeout)


def _rendezvous(url: str, **_: Any) -> Iterator[tuple[dist.Store, int, int]]:
    """``init_method="mpi4py://"``: rank and size from MPI."""
    rt = runtime.start()
    launch = launching.detect() or launching.Launch("none", 0, 1, 0, 1, "")
    yield LazyFileStore(launching.job_store_path(launch), rt.size), rt.rank, rt.size


def register() -> None:
    """Make ``mpi4py`` known to torch.distributed."""
    dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu"])
    register_rendezvous_handler(NAME, _rendezvous)


register()
