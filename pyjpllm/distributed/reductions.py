"""Reductions over one communicator, as generators for an engine.

Two ways. **Ordered**: every rank gets its piece from all others, reduces the pieces in rank order (16-bit floats in
FP32), and the pieces are gathered. The bits depend on nothing but the numbers and the number of ranks; 16-bit data
travels as 16-bit. Used for 16-bit floats always, for other floating sums when ``deterministic`` is set, and for large
floating sums because it is the fastest there (docs/distributed.md has the measurements). **Native**: MPI's own
nonblocking collective, for all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from pyjpllm.distributed.engine import Operation, Steps
from pyjpllm.distributed.transport import Communicator, _pieces, all_gather, as_one, small

# From this many bytes a rank on, floating sums go the ordered way.
ORDERED_FROM = 8 << 10
# Up to this many bytes in all, an ordered reduction is one all-gather and everybody reduces everything.
GATHERED_UP_TO = 32 << 10
# Pieces of a large ordered reduction: one is reduced while the next travels.
SEGMENT = 8 << 20
# Reduce this many elements at a time, so that the accumulator stays in the cache.
_BLOCK = 1 << 18

_REDUCED_IN_FP32 = frozenset(
    dtype
    for name in ("float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
    if (dtype := getattr(torch, name, None)) is not None
)
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
        or (dtype not in _NATIVE_TYPES and dtype not in _REDUCED_IN_FP32)
    )
    if wrong:
        raise ValueError(f"mpi4py: ReduceOp.{kind.upper()} is not defined for {dtype}")


def is_ordered(x: torch.Tensor, reduction: Reduction, ranks: int, deterministic: bool) -> bool:
    """Which of the two ways; the same on every rank, since it depends on type, size and settings only."""
    if x.dtype in _REDUCED_IN_FP32:
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
    elif flat.numel() * flat.element_size() * c.size <= GATHERED_UP_TO:
        parts = flat.new_empty((c.size, flat.numel()))
        yield from all_gather(c, op, list(parts), flat)
        combine(list(parts), flat, reduction.kind)
    else:
        yield from _ordered_all_reduce(c, op, flat, reduction.kind)


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
            combine([flat if p == root else parts[p] for p in range(c.size)], x.view(-1), reduction.kind)
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
        segment = max(1, SEGMENT // (whole.element_size() * c.size))
        starts = range(0, max(1, *sizes), segment)
        yield from _exchange(
            c,
            op,
            ([piece[start : start + segment] for piece in pieces] for start in starts),
            [flat[start : start + segment] for start in starts],
            reduction.kind,
        )
        return
    op.tail = True
    yield [c.comm.Ireduce_scatter(_typed(c, whole), _typed(c, flat), sizes, _op(c, whole, reduction))]
    _average(flat, reduction, c.size)


def combine(parts: Sequence[torch.Tensor], out: torch.Tensor, kind: str) -> None:
    """Reduce flat ``parts`` in their order into flat ``out`` (which may be one of them): elementwise, hence the same
    bits however the data was cut."""
    wide = torch.float32 if out.dtype in _REDUCED_IN_FP32 else out.dtype
    step = _STEPS[kind]
    # Straight into ``out``, unless it holds a part that is still to be read.
    direct = wide == out.dtype and all(part.data_ptr() != out.data_ptr() for part in parts[2:])
    for start in range(0, out.numel(), _BLOCK):
        target = out[start : start + _BLOCK]
        first, *rest = [part[start : start + _BLOCK] for part in parts]
        total = target if direct else torch.empty(target.shape, dtype=wide)
        if direct and rest:
            step(first, rest.pop(0), out=total)
        else:
            total.copy_(first)
        for block in rest:
            step(total, block.to(wide), out=total)
        if kind == "avg":
            _average(total, Reduction(kind), len(parts))
        if not direct:
            target.copy_(total)


_STEPS: dict[str, Callable[..., Any]] = {
    "sum": torch.add,
    "avg": torch.add,
    "product": torch.mul,
    "min": torch.minimum,
    "max": torch.maximum,
    "band": torch.bitwise_and,
    "bor": torch.bitwise_or,
    "bxor": torch.bitwise_xor,
}


def _ordered_all_reduce(c: Communicator, op: Operation, flat: torch.Tensor, kind: str) -> Steps:
    segments = [_cut(part, c.size) for part in torch.split(flat, max(1, SEGMENT // flat.element_size()))]
    gathers: list[Any] = []

    def gather(index: int) -> None:
        for peer in c.peers():
            gathers.extend(c.irecv(segments[index][peer], peer))
        for peer in c.peers():
            gathers.extend(c.isend(segments[index][c.rank], peer))

    own = [pieces[c.rank] for pieces in segments]
    yield from _exchange(c, op, iter(segments), own, kind, gather)
    op.tail = True
    yield gathers


def _exchange(
    c: Communicator,
    op: Operation,
    segments: Iterator[Sequence[torch.Tensor]],
    outs: Sequence[torch.Tensor],
    kind: str,
    then: Callable[[int], None] | None = None,
) -> Steps:
    """For every segment: send piece p to rank p, reduce what comes into ``outs``, call ``then``.

    One segment is reduced while the next travels. All ranks post in the same order, which is what matches messages.
    """

    def post(pieces: Sequence[torch.Tensor]) -> tuple[list[Any], list[torch.Tensor]]:
        mine = pieces[c.rank]
        parts = [mine if p == c.rank else torch.empty_like(mine) for p in range(c.size)]
        requests: list[Any] = []
        for peer in reversed(c.peers()):
            requests += c.irecv(parts[peer], peer)
        for peer in c.peers():
            requests += c.isend(pieces[peer], peer)
        return requests, parts

    under_way = post(next(segments))
    for index, out in enumerate(outs):
        requests, parts = under_way
        if index + 1 < len(outs):
            under_way = post(next(segments))
        else:
            op.tail = then is None
        yield requests
        combine(parts, out, kind)
        if then is not None:
            then(index)


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
        if x.dtype.is_floating_point or x.dtype.is_complex:
            x.div_(ranks)
        else:
            x.div_(ranks, rounding_mode="trunc")


def all_reduce_sparse(c: Communicator, op: Operation, x: torch.Tensor) -> Steps:
    """The sum of the ranks' sparse COO tensors, in rank order, into ``x``."""
    mine = x.coalesce()
    counts = torch.empty(c.size, dtype=torch.int64)
    yield from all_gather(c, op, list(torch.split(counts, 1)), torch.tensor([mine._nnz()]))
    op.tail = False
    nonzeros = counts.tolist()
    indices = [torch.empty((mine.sparse_dim(), count), dtype=torch.int64) for count in nonzeros]
    values = [mine.values().new_empty((count, *mine.values().shape[1:])) for count in nonzeros]
    yield from all_gather(c, op, indices, mine.indices().contiguous())
    op.tail = False
    yield from all_gather(c, op, values, mine.values().contiguous())
    total = torch.sparse_coo_tensor(torch.cat(indices, 1), torch.cat(values), x.shape, dtype=x.dtype).coalesce()
    x.copy_(total)
