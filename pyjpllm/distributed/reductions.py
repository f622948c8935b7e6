"""Reductions over one communicator, as generators for an engine.

Two ways. **Ordered**: every rank gets its piece from all others, reduces the pieces in rank order (16-bit floats in
FP32), and the pieces are gathered. The bits depend on nothing but the numbers and the number of ranks; 16-bit data
travels as 16-bit. Used for 16-bit floats always, for other floating sums when ``deterministic`` is set, and for large
floating sums because it is the fastest there (docs/distributed.md has the measurements). **Native**: MPI's own
nonblocking collective, for all the rest.

In a group of several nodes with several ranks each (hierarchy.py) the ordered way has two levels: the ranks of a node
in their order, then the nodes in theirs, by whichever messages. Between the two, sums of 16-bit floats are FP32, so
they are rounded once; that is what travels across, from 1 / ranks_per_node of the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from pyjpllm.distributed import hierarchy
from pyjpllm.distributed.combining import REDUCED_IN_FP32, average, between, combine, combine_by_level, within_node
from pyjpllm.distributed.engine import Operation, Steps
from pyjpllm.distributed.hierarchy import Levels, all_gather, pipelined
from pyjpllm.distributed.transport import Communicator, _pieces, as_one, one_after_another, small

# From this many bytes a rank on, floating sums go the ordered way.
ORDERED_FROM = 8 << 10

_NATIVE_TYPES = {
    torch.bool: "UINT8_T",
    torch.uint8: "UINT8_T",
    torch.int8: "INT8_T",
    torch.int16: "INT16_T",
    torch.int32: "INT32_T",
    torch.int64: "INT64_T",
    torch.uint16: "UINT16_T",
    torch.uint32: "UINT32_T",
    torch.uint64: "UINT64_T",
    torch.float32: "FLOAT",
    torch.float64: "DOUBLE",
    torch.complex64: "C_FLOAT_COMPLEX",
    torch.complex128: "C_DOUBLE_COMPLEX",
}
_NATIVE_OPS = {
    "sum": "SUM", "avg": "SUM", "product": "PROD", "min": "MIN", "max": "MAX",
    "band": "BAND", "bor": "BOR", "bxor": "BXOR",
}  # fmt: skip
# A bool is one byte, 0 or 1: its sum is "any", its product "all".
_BOOL_OPS = {
    "sum": "MAX", "max": "MAX", "bor": "MAX", "product": "MIN", "min": "MIN", "band": "MIN", "bxor": "BXOR",
}  # fmt: skip
_NAMES = {
    "SUM": "sum", "AVG": "avg", "PRODUCT": "product", "MIN": "min", "MAX": "max",
    "BAND": "band", "BOR": "bor", "BXOR": "bxor", "PREMUL_SUM": "premul_sum",
}  # fmt: skip


@dataclass(frozen=True)
class Reduction:
    """A ReduceOp taken apart: ``kind`` as in ``_NATIVE_OPS``; ``factor`` multiplies this rank's input first."""

    kind: str
    factor: Any = None


def parse(op: Any) -> Reduction:
    """``dist.ReduceOp`` or ``dist.ReduceOp.RedOpType`` as a Reduction."""
    kind_only = isinstance(op, dist.ReduceOp.RedOpType)
    state: Any = (op, None) if kind_only else op.__getstate__()
    kind = _NAMES[state[0].name]
    return Reduction("sum", state[1]) if kind == "premul_sum" else Reduction(kind)


def check(x: torch.Tensor, reduction: Reduction) -> None:
    """Raise ValueError for an operation that has no meaning for the type."""
    dtype, kind = x.dtype, reduction.kind
    bitwise = kind in ("band", "bor", "bxor")
    wrong = (
        (bitwise and (dtype.is_floating_point or dtype.is_complex))
        or (dtype.is_complex and kind in ("min", "max"))
        or (dtype == torch.bool and kind == "avg")
        or (dtype not in _NATIVE_TYPES and dtype not in REDUCED_IN_FP32)
    )
    if wrong:
        raise ValueError(f"mpi4py: ReduceOp.{kind.upper()} is not defined for {dtype}")


def is_ordered(x: torch.Tensor, reduction: Reduction, ranks: int, deterministic: bool) -> bool:
    """Which of the two ways; the same on every rank, since it depends on type, size and settings only."""
    if x.dtype in REDUCED_IN_FP32:
        return True
    if not (x.dtype.is_floating_point or x.dtype.is_complex) or reduction.kind not in ("sum", "avg", "product"):
        return False
    return deterministic or (reduction.kind != "product" and x.numel() * x.element_size() >= ORDERED_FROM * ranks)


def all_reduce(c: Communicator, op: Operation, x: torch.Tensor, reduction: Reduction, deterministic: bool) -> Steps:
    """``x`` (contiguous), reduced in place over all ranks."""
    flat = x.view(-1)
    if reduction.factor is not None:
        flat.mul_(reduction.factor)
    if not is_ordered(flat, reduction, c.size, deterministic):
        op.tail = True
        yield [c.comm.Iallreduce(c.mpi.IN_PLACE, _typed(c, piece), _op(c, x, reduction)) for piece in _pieces(flat)]
        _average(flat, reduction, c.size)
        return
    levels = levels_for(c, flat.dtype, reduction.kind)
    if flat.numel() * flat.element_size() * c.size <= hierarchy.GATHERED_UP_TO:
        parts = flat.new_empty((c.size, flat.numel()))
        yield from all_gather(c, op, list(parts), flat)
        combine_by_level(levels, list(parts), flat, reduction.kind)
        return
    segments = torch.split(flat, max(1, hierarchy.segment_bytes(c.size) // flat.element_size()))

    def of_segment(segment: torch.Tensor) -> Steps:
        cuts = _cut(segment, c.size)  # in such an order that what a node's ranks exchange lies together
        pieces = [cuts[rank % levels.width * levels.nodes + rank // levels.width] for rank in range(c.size)]
        yield from _reduce_scatter_segment(c, levels, pieces, pieces[c.rank], reduction.kind)
        yield from hierarchy.gather_segment(c, levels, pieces)

    yield from pipelined(op, map(of_segment, segments), 2 * levels.posts * len(segments))


def reduce(
    c: Communicator, op: Operation, x: torch.Tensor, reduction: Reduction, root: int, deterministic: bool
) -> Steps:
    """``x`` (contiguous) reduced into ``x`` of ``root``; the others keep theirs."""
    flat = x.view(-1)
    if reduction.factor is not None:
        flat = flat * reduction.factor
    if is_ordered(flat, reduction, c.size, deterministic):
        parts = flat.new_empty((c.size, flat.numel())) if c.rank == root else None
        op.tail = True
        if parts is None:
            yield c.isend(flat, root)
        else:
            yield [request for peer in c.peers() for request in c.irecv(parts[peer], peer)]
            inputs = [flat if p == root else parts[p] for p in range(c.size)]
            combine_by_level(levels_for(c, flat.dtype, reduction.kind), inputs, x.view(-1), reduction.kind)
        return
    if c.rank == root and reduction.factor is not None:
        x.view(-1).copy_(flat)
        flat = x.view(-1)
    op.tail = True
    if c.rank == root:
        yield [c.comm.Ireduce(c.mpi.IN_PLACE, _typed(c, p), _op(c, x, reduction), root) for p in _pieces(flat)]
        _average(flat, reduction, c.size)
    else:
        yield [c.comm.Ireduce(_typed(c, p), None, _op(c, x, reduction), root) for p in _pieces(flat)]


def reduce_scatter(
    c: Communicator,
    op: Operation,
    out: torch.Tensor,
    xs: Sequence[torch.Tensor],
    reduction: Reduction,
    deterministic: bool,
) -> Steps:
    """The ranks' ``xs[r]`` reduced into ``out`` (contiguous); sizes may differ by rank."""
    sizes = [x.numel() for x in xs]
    whole = as_one(xs)
    if whole is None or reduction.factor is not None:
        whole = torch.cat([x.view(-1) for x in xs])
        if reduction.factor is not None:
            whole.mul_(reduction.factor)
    pieces = torch.split(whole, sizes)
    flat = out.view(-1)
    if is_ordered(whole, reduction, c.size, deterministic) or not small(whole):
        levels = levels_for(c, whole.dtype, reduction.kind)
        ranges = hierarchy.segments_of(c, pieces)
        yield from pipelined(
            op,
            (
                _reduce_scatter_segment(c, levels, [piece[part] for piece in pieces], flat[part], reduction.kind)
                for part in ranges
            ),
            levels.posts * len(ranges),
        )
        return
    op.tail = True
    yield [c.comm.Ireduce_scatter(_typed(c, whole), _typed(c, flat), sizes, _op(c, whole, reduction))]
    _average(flat, reduction, c.size)


def levels_for(c: Communicator, dtype: torch.dtype, kind: str) -> Levels:
    """The levels in which ``dtype`` is reduced: one where FP32 sums of few ranks would be more to send than their
    8-bit numbers."""
    worth = between(dtype, kind).itemsize <= c.per_node * dtype.itemsize
    return Levels(c.size, c.rank, c.per_node if worth else c.size)


def _reduce_scatter_segment(
    c: Communicator, levels: Levels, pieces: Sequence[torch.Tensor], out: torch.Tensor, kind: str
) -> Steps:
    """Rank p's piece of everyone's ``pieces``, reduced into its ``out``.

    Inside the node a rank gets what is for its place in any node, and reduces it; of that, each node gets its own.
    """
    mine = levels.at(levels.place, pieces)
    own = as_one(mine)
    if own is None:
        own = torch.cat(list(mine))
    parts = [own if place == levels.place else torch.empty_like(own) for place in range(levels.width)]
    requests: list[Any] = []
    for peer in reversed(levels.inside()):
        requests += c.irecv_as_one([parts[peer % levels.width]], peer)
    for peer in levels.inside():
        requests += c.isend_as_one(levels.at(peer % levels.width, pieces), peer)
    yield requests
    if levels.nodes == 1:
        combine(parts, out, kind)
        return
    slices = torch.split(within_node(parts, kind), [piece.numel() for piece in mine])
    del parts, own
    ours = slices[levels.node]
    of_nodes = [ours if node == levels.node else torch.empty_like(ours) for node in range(levels.nodes)]
    requests = []
    for peer in reversed(levels.across()):
        requests += c.irecv(of_nodes[peer // levels.width], peer)
    for peer in levels.across():
        requests += c.isend(slices[peer // levels.width], peer)
    yield requests
    combine(of_nodes, out, kind, levels.size)


def _cut(flat: torch.Tensor, ranks: int) -> list[torch.Tensor]:
    """``flat`` in one piece a rank, as equal as cache lines allow; the last ones may be empty."""
    chunk = -(-flat.numel() // ranks)
    chunk = -(-chunk // 32) * 32
    return [flat[min(p * chunk, flat.numel()) : min((p + 1) * chunk, flat.numel())] for p in range(ranks)]


def _typed(c: Communicator, x: torch.Tensor) -> list[Any]:
    nbytes = x.numel() * x.element_size()
    return [c.buffer.fromaddress(x.data_ptr(), nbytes), x.numel(), getattr(c.mpi, _NATIVE_TYPES[x.dtype])]


def _op(c: Communicator, x: torch.Tensor, reduction: Reduction) -> Any:
    return getattr(c.mpi, (_BOOL_OPS if x.dtype == torch.bool else _NATIVE_OPS)[reduction.kind])


def _average(x: torch.Tensor, reduction: Reduction, ranks: int) -> None:
    if reduction.kind == "avg":
        average(x, ranks)


def all_reduce_sparse(c: Communicator, op: Operation, x: torch.Tensor) -> Steps:
    """The sum of the ranks' sparse COO tensors, in rank order, into ``x``."""
    mine = x.coalesce()
    counts = torch.empty(c.size, dtype=torch.int64)
    indices: list[torch.Tensor] = []
    values: list[torch.Tensor] = []

    def of_indices() -> Steps:
        indices.extend(torch.empty((mine.sparse_dim(), count), dtype=torch.int64) for count in counts.tolist())
        return all_gather(c, op, indices, mine.indices().contiguous())

    def of_values() -> Steps:
        values.extend(mine.values().new_empty((count, *mine.values().shape[1:])) for count in counts.tolist())
        return all_gather(c, op, values, mine.values().contiguous())

    def of_counts() -> Steps:
        return all_gather(c, op, list(torch.split(counts, 1)), torch.tensor([mine._nnz()]))

    yield from one_after_another(op, [of_counts, of_indices, of_values])
    total = torch.sparse_coo_tensor(torch.cat(indices, 1), torch.cat(values), x.shape, dtype=x.dtype).coalesce()
    x.copy_(total)
