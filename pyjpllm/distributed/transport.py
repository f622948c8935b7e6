"""Data movement over one MPI communicator, as generators for an engine. No arithmetic here.

``x`` are contiguous CPU tensors; ``P`` is the number of ranks, ``r`` this rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyjpllm.distributed.engine import Operation, Steps

# One message carries at most this many bytes: MPI counts are C ints.
MAX_MESSAGE = 1 << 30


class Communicator:
    """An MPI communicator, and tensors in the form that mpi4py takes.

    Tags below ``tag_limit`` are the user's; the messages that our own collectives are made of have ``tag_limit``.
    """

    def __init__(self, mpi: Any, comm: Any, tag_limit: int) -> None:
        self.mpi = mpi
        self.comm = comm
        self.tag_limit = tag_limit
        self.buffer = getattr(mpi, "buffer", None) or mpi.memory  # its name before mpi4py 4
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

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


def _pieces(x: torch.Tensor) -> Sequence[torch.Tensor]:
    flat = x.view(-1)
    nbytes = flat.numel() * flat.element_size()
    if nbytes <= MAX_MESSAGE:
        return (flat,)
    return torch.split(flat, MAX_MESSAGE // flat.element_size())


def small(x: torch.Tensor, ranks: int = 1) -> bool:
    """Whether MPI's own collective can take it: all counts and displacements fit a C int."""
    return x.numel() * x.element_size() * ranks <= MAX_MESSAGE


def broadcast(c: Communicator, op: Operation, x: torch.Tensor, root: int) -> Steps:
    """``x`` of ``root`` into everyone's ``x``."""
    op.tail = True
    yield [c.comm.Ibcast(c.raw(piece), root) for piece in _pieces(x)]


def all_gather(c: Communicator, op: Operation, outs: Sequence[torch.Tensor], x: torch.Tensor) -> Steps:
    """``x`` of rank p into ``outs[p]``; sizes may differ by rank. ``outs[r]`` may be ``x`` itself."""
    op.tail = True
    if outs[c.rank].data_ptr() != x.data_ptr():
        outs[c.rank].view(-1).copy_(x.view(-1))
    flat = as_one(outs)
    if flat is not None and small(flat):
        if len({out.numel() for out in outs}) == 1:
            yield [c.comm.Iallgather(c.mpi.IN_PLACE, c.raw_one(flat, c.size))]
        else:
            yield [c.comm.Iallgatherv(c.mpi.IN_PLACE, c.raw_counts(flat, [out.numel() for out in outs]))]
        return
    requests: list[Any] = []
    for peer in c.peers():
        requests += c.irecv(outs[peer], peer)
    for peer in c.peers():
        requests += c.isend(outs[c.rank], peer)
    yield requests


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
