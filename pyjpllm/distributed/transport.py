"""Data movement over one MPI communicator, as generators for an engine. No arithmetic here.

``x`` are contiguous CPU tensors; ``P`` is the number of ranks, ``r`` this rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from pyjpllm.distributed.engine import Operation, Steps

# One message carries at most this many bytes: MPI counts are C ints.
MAX_MESSAGE = 1 << 30


class Communicator:
    """An MPI communicator, and tensors in the form that mpi4py takes.

    Tags below ``tag_limit`` are the user's; the messages that our own collectives are made of have ``tag_limit``.
    ``per_node``: so many neighbouring ranks are a node (hierarchy.py); all of them where levels are of no use.
    """

    def __init__(self, mpi: Any, comm: Any, tag_limit: int, per_node: int) -> None:
        self.mpi = mpi
        self.comm = comm
        self.tag_limit = tag_limit
        self.buffer = getattr(mpi, "buffer", None) or mpi.memory  # its name before mpi4py 4
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.per_node = per_node

    def peers(self) -> list[int]:
        """The other ranks, beginning after this one, so that not everybody sends to rank 0 first."""
        return [(self.rank + step) % self.size for step in range(1, self.size)]

    def raw(self, x: torch.Tensor) -> list[Any]:
        """``x`` as MPI bytes."""
        nbytes = x.numel() * x.element_size()
        return [self.buffer.fromaddress(x.data_ptr(), nbytes), nbytes, self.mpi.BYTE]

    def raw_counts(self, x: torch.Tensor, counts: Sequence[int]) -> list[Any]:
        """``x`` as MPI bytes cut into pieces of ``counts`` elements."""
        size = x.element_size()
        nbytes = [count * size for count in counts]
        return [self.buffer.fromaddress(x.data_ptr(), x.numel() * size), nbytes, None, self.mpi.BYTE]

    def raw_one(self, x: torch.Tensor, parts: int) -> list[Any]:
        """``x`` as MPI bytes cut into ``parts`` equal pieces (the count that MPI wants is that of one piece)."""
        nbytes = x.numel() * x.element_size()
        return [self.buffer.fromaddress(x.data_ptr(), nbytes), nbytes // parts, self.mpi.BYTE]

    def isend(self, x: torch.Tensor, rank: int) -> list[Any]:
        """Post ``x`` to ``rank`` in as many messages as it takes."""
        return [self.comm.Isend(self.raw(piece), rank, self.tag_limit) for piece in _pieces(x)]

    def irecv(self, x: torch.Tensor, rank: int) -> list[Any]:
        """Post the receive that matches ``isend``."""
        return [self.comm.Irecv(self.raw(piece), rank, self.tag_limit) for piece in _pieces(x)]

    def isend_as_one(self, xs: Sequence[torch.Tensor], rank: int) -> list[Any]:
        """Post ``xs``, at most MAX_MESSAGE bytes together, to ``rank`` in one message."""
        with self._joined(xs) as buffer:
            return [self.comm.Isend(buffer, rank, self.tag_limit)]

    def irecv_as_one(self, xs: Sequence[torch.Tensor], rank: int) -> list[Any]:
        """Post the receive that matches ``isend_as_one``; ``xs`` may be cut otherwise than the sender's."""
        with self._joined(xs) as buffer:
            return [self.comm.Irecv(buffer, rank, self.tag_limit)]

    @contextlib.contextmanager
    def _joined(self, xs: Sequence[torch.Tensor]) -> Iterator[list[Any]]:
        """``xs`` as one buffer: the memory that they are, or an MPI type of the places where they lie, which spares a
        copy. The type may be freed as soon as the call that uses it has returned."""
        whole = xs[0] if len(xs) == 1 else as_one(xs)
        if whole is not None:
            yield self.raw(whole)
            return
        lengths = [x.numel() * x.element_size() for x in xs]
        there = self.mpi.BYTE.Create_hindexed(lengths, [x.data_ptr() for x in xs]).Commit()
        try:
            yield [self.mpi.BOTTOM, 1, there]
        finally:
            there.Free()


def _pieces(x: torch.Tensor) -> Sequence[torch.Tensor]:
    flat = x.view(-1)
    nbytes = flat.numel() * flat.element_size()
    if nbytes <= MAX_MESSAGE:
        return (flat,)
    return torch.split(flat, MAX_MESSAGE // flat.element_size())


def small(x: torch.Tensor, ranks: int = 1) -> bool:
    """Whether MPI's own collective can take it: all counts and displacements fit a C int."""
    return x.numel() * x.element_size() * ranks <= MAX_MESSAGE


def one_after_another(op: Operation, parts: Sequence[Callable[[], Steps]]) -> Steps:
    """Several collectives as one operation: only in the last may the next operation of the lane begin to post."""
    for index, part in enumerate(parts):
        if index == len(parts) - 1:
            yield from part()
            return
        for requests in part():
            op.tail = False
            yield requests


def broadcast(c: Communicator, op: Operation, x: torch.Tensor, root: int) -> Steps:
    """``x`` of ``root`` into everyone's ``x``."""
    op.tail = True
    yield [c.comm.Ibcast(c.raw(piece), root) for piece in _pieces(x)]


def all_to_all(c: Communicator, op: Operation, outs: Sequence[torch.Tensor], xs: Sequence[torch.Tensor]) -> Steps:
    """``xs[p]`` to rank p, what rank p sends into ``outs[p]``; any sizes."""
    op.tail = True
    requests: list[Any] = []
    for peer in reversed(c.peers()):
        requests += c.irecv(outs[peer], peer)
    for peer in c.peers():
        requests += c.isend(xs[peer], peer)
    outs[c.rank].view(-1).copy_(xs[c.rank].view(-1))
    yield requests


def gather(c: Communicator, op: Operation, outs: Sequence[torch.Tensor] | None, x: torch.Tensor, root: int) -> Steps:
    """``x`` of rank p into ``outs[p]`` on ``root``."""
    op.tail = True
    if c.rank != root:
        yield c.isend(x, root)
        return
    assert outs is not None
    outs[root].view(-1).copy_(x.view(-1))
    yield [request for peer in c.peers() for request in c.irecv(outs[peer], peer)]


def scatter(c: Communicator, op: Operation, out: torch.Tensor, xs: Sequence[torch.Tensor] | None, root: int) -> Steps:
    """``xs[p]`` of ``root`` into ``out`` of rank p."""
    op.tail = True
    if c.rank != root:
        yield c.irecv(out, root)
        return
    assert xs is not None
    out.view(-1).copy_(xs[root].view(-1))
    yield [request for peer in c.peers() for request in c.isend(xs[peer], peer)]


def barrier(c: Communicator, op: Operation) -> Steps:
    """Everybody has come here."""
    op.tail = True
    yield [c.comm.Ibarrier()]


def send(c: Communicator, x: torch.Tensor, rank: int, tag: int) -> Steps:
    """The user's message to ``rank``."""
    yield [c.comm.Isend(c.raw(piece), rank, tag) for piece in _pieces(x)]


def recv(c: Communicator, op: Operation, x: torch.Tensor, rank: int | None, tag: int) -> Steps:
    """The user's message from ``rank``, or from anybody when None; ``op.source`` says from whom."""
    pieces = _pieces(x)
    status = c.mpi.Status()
    op.statuses = [status]
    yield [c.comm.Irecv(c.raw(pieces[0]), c.mpi.ANY_SOURCE if rank is None else rank, tag)]
    op.source = status.Get_source()
    op.statuses = None
    if len(pieces) > 1:
        yield [c.comm.Irecv(c.raw(piece), op.source, tag) for piece in pieces[1:]]


def as_one(xs: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The one flat tensor that ``xs`` are consecutive pieces of, or None when they are not."""
    first = next((x for x in xs if x.numel()), xs[0])
    address = first.data_ptr()
    total = 0
    for x in xs:
        if x.numel() and x.data_ptr() != address:
            return None
        address += x.numel() * x.element_size()
        total += x.numel()
    end = first.storage_offset() + total
    if end * first.element_size() > first.untyped_storage().nbytes():
        return None  # neighbours by accident, in different storages
    return first.as_strided((total,), (1,))
