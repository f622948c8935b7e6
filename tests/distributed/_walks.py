"""Bodies that ranks run: every collective by every type and operation, against formulas each rank works out itself.

Every rank can make every rank's input (``data`` is seeded by rank), so it knows the right answer without communicating.
"""

from __future__ import annotations

import itertools
from datetime import timedelta
from functools import reduce as fold
from typing import Any

import torch
import torch.distributed as dist

from pyjpllm.distributed import World, compat, transport

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ALL = (*FLOATS, *COMPLEX, *INTEGERS, torch.bool)
SIZES = (0, 1, 7, 1000, 70_001)  # the last one is past every threshold between ways
R = dist.ReduceOp
OPS = (R.SUM, R.AVG, R.PRODUCT, R.MIN, R.MAX, R.BAND, R.BOR, R.BXOR)


def data(rank: int, shape: int | tuple[int, ...], dtype: torch.dtype, salt: int = 0) -> torch.Tensor:
    """Small whole numbers (their sums and products are exact in every type), different on every rank."""
    generator = torch.Generator().manual_seed(1000 * salt + rank)
    shape = (shape,) if isinstance(shape, int) else shape
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    x = torch.randint(1, 4, shape, generator=generator)
    if dtype.is_complex:
        return torch.complex(x.double(), x.flip(0).double()).to(dtype)
    return x.to(dtype)


def defined(op: Any, dtype: torch.dtype) -> bool:
    if op in (R.BAND, R.BOR, R.BXOR):
        return not (dtype.is_floating_point or dtype.is_complex)
    if op in (R.MIN, R.MAX, R.PRODUCT):
        return not dtype.is_complex  # torch itself refuses the product
    return not (op == R.AVG and dtype == torch.bool)


def reduced(xs: list[torch.Tensor], op: Any) -> torch.Tensor:
    """The right answer, one operation after the other in a type that is wide enough."""
    dtype = xs[0].dtype
    wide = torch.complex128 if dtype.is_complex else torch.float64 if dtype.is_floating_point else dtype
    ys = [x.to(wide) for x in xs]
    if dtype == torch.bool:
        either = {R.SUM: torch.logical_or, R.MAX: torch.logical_or, R.BOR: torch.logical_or, R.BXOR: torch.logical_xor}
        return fold(either.get(op, torch.logical_and), ys)
    if op == R.AVG:
        total = fold(torch.add, ys)
        mean = (
            total / len(ys)
            if dtype.is_floating_point or dtype.is_complex
            else total.div(len(ys), rounding_mode="trunc")
        )
        return mean.to(dtype)
    step = {
        R.SUM: torch.add, R.PRODUCT: torch.mul, R.MIN: torch.minimum, R.MAX: torch.maximum,
        R.BAND: torch.bitwise_and, R.BOR: torch.bitwise_or, R.BXOR: torch.bitwise_xor,
    }[op]  # fmt: skip
    return fold(step, ys).to(dtype)


def same(got: torch.Tensor, want: torch.Tensor, what: str) -> None:
    # FP32 and wider may add in another order: whole numbers are exact, an average is within one rounding.
    if got.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        right = got.dtype == want.dtype and got.shape == want.shape and torch.allclose(got, want, rtol=1e-6, atol=0)
    else:
        right = got.dtype == want.dtype and torch.equal(got, want)
    assert right, f"{what}: {got} is not {want}"


def reductions(world: World, dtypes: tuple[torch.dtype, ...], ops: tuple[str, ...] | None = None) -> int:
    """allreduce, reduce, reduce_scatter in their forms; returns how many answers were checked."""
    n, r = world.size, world.rank
    checked = 0
    chosen = OPS if ops is None else [getattr(R, op) for op in ops]
    for dtype, op, size in itertools.product(dtypes, chosen, SIZES):
        if not defined(op, dtype):
            continue
        what = f"{op} {dtype} {size}"
        x = data(r, size, dtype)
        dist.all_reduce(x, op)
        same(x, reduced([data(p, size, dtype) for p in range(n)], op), f"all_reduce {what}")
        root = size % n
        x = data(r, size, dtype)
        dist.reduce(x, root, op)
        if r == root:
            same(x, reduced([data(p, size, dtype) for p in range(n)], op), f"reduce {what}")
        checked += 2
        if ops is None:
            checked += _reduce_scatters(n, r, dtype, op, size, what)
    return checked


def _reduce_scatters(n: int, r: int, dtype: torch.dtype, op: Any, size: int, what: str) -> int:
    out = torch.empty(size, dtype=dtype)
    compat.reduce_scatter_single(out, data(r, size * n, dtype), op)
    everything = reduced([data(p, size * n, dtype) for p in range(n)], op)
    same(out, everything[r * size : (r + 1) * size], f"reduce_scatter_tensor {what}")
    sizes = [size + 3 * p for p in range(n)]  # a list of separate tensors, of other sizes on other ranks
    out = torch.empty(sizes[r], dtype=dtype)
    dist.reduce_scatter(out, [data(r, s, dtype, salt=p) for p, s in enumerate(sizes)], op)
    same(out, reduced([data(p, sizes[r], dtype, salt=r) for p in range(n)], op), f"reduce_scatter {what}")
    return 2


def movements(world: World, dtypes: tuple[torch.dtype, ...]) -> int:
    """Every call that moves data, by type and size, with pieces of different sizes where torch allows it."""
    n, r = world.size, world.rank
    checked = 0
    for dtype, size in itertools.product(dtypes, SIZES):
        what = f"{dtype} {size}"
        root = (size + 1) % n
        every = [data(p, size, dtype) for p in range(n)]
        x = every[r].clone()
        dist.broadcast(x, root)
        same(x, every[root], f"broadcast {what}")
        outs = [torch.empty(size, dtype=dtype) for _ in range(n)]
        dist.all_gather(outs, every[r])
        same(torch.cat(outs), torch.cat(every), f"all_gather {what}")
        flat = torch.empty(size * n, dtype=dtype)
        compat.all_gather_single(flat, every[r])
        same(flat, torch.cat(every), f"all_gather_into_tensor {what}")
        gathered = [torch.empty(size, dtype=dtype) for _ in range(n)] if r == root else None
        dist.gather(every[r], gathered, root)
        if gathered is not None:
            same(torch.cat(gathered), torch.cat(every), f"gather {what}")
        out = torch.empty(size, dtype=dtype)
        dist.scatter(out, [data(root, size, dtype, salt=p) for p in range(n)] if r == root else None, root)
        same(out, data(root, size, dtype, salt=r), f"scatter {what}")
        out = torch.empty(size * n, dtype=dtype)
        dist.all_to_all_single(out, torch.cat([data(r, size, dtype, salt=p) for p in range(n)]))
        same(out, torch.cat([data(p, size, dtype, salt=r) for p in range(n)]), f"all_to_all_single {what}")
        checked += 6
    return checked


def uneven(world: World) -> None:
    """all_to_all with splits, all_gather of unequal tensors, lists of unequal tensors."""
    n, r = world.size, world.rank
    rows = [[(3 * p + 2 * q) % 5 for q in range(n)] for p in range(n)]  # rows[p][q] go from p to q
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        x = torch.cat([data(r, (rows[r][q], 3), dtype, salt=q) for q in range(n)])
        out = torch.empty((sum(rows[p][r] for p in range(n)), 3), dtype=dtype)
        dist.all_to_all_single(out, x, [rows[p][r] for p in range(n)], rows[r])
        same(out, torch.cat([data(p, (rows[p][r], 3), dtype, salt=r) for p in range(n)]), "all_to_all_single uneven")
        outs = [torch.empty((rows[p][r], 2), dtype=dtype) for p in range(n)]
        dist.all_to_all(outs, [data(r, (rows[r][q], 2), dtype, salt=q) for q in range(n)])
        for p in range(n):
            same(outs[p], data(p, (rows[p][r], 2), dtype, salt=r), "all_to_all uneven")
        outs = list(torch.empty(sum(2 * p + 1 for p in range(n)), dtype=dtype).split([2 * p + 1 for p in range(n)]))
        dist.all_gather(outs, data(r, 2 * r + 1, dtype))
        for p in range(n):
            same(outs[p], data(p, 2 * p + 1, dtype), "all_gather uneven, in one buffer")
        outs = [torch.empty(2 * p + 1, dtype=dtype) for p in range(n)]
        dist.all_gather(outs, data(r, 2 * r + 1, dtype))
        for p in range(n):
            same(outs[p], data(p, 2 * p + 1, dtype), "all_gather uneven, in separate buffers")


def strided(world: World) -> None:
    """Tensors that are not contiguous, in and out: transposed, sliced, conjugated."""
    n, r = world.size, world.rank
    every = [data(p, (4, 6), torch.float32) for p in range(n)]
    total = fold(torch.add, every)
    x = every[r].clone().t()
    dist.all_reduce(x)
    same(x, total.t(), "all_reduce transposed")
    whole = torch.zeros(4, 12)
    piece = whole[:, ::2]
    piece.copy_(every[r])
    dist.all_reduce(piece)
    same(piece, total, "all_reduce sliced")
    assert whole[:, 1::2].abs().sum() == 0
    outs = [torch.empty(6, 4).t() for _ in range(n)]
    dist.all_gather(outs, every[r].t().contiguous().t())
    same(torch.stack(outs), torch.stack(every), "all_gather transposed")
    x = every[r].t() if r == 0 else torch.empty(4, 6).t()
    dist.broadcast(x, 0)
    same(x, every[0].t(), "broadcast transposed")
    out = torch.empty(6, 4 * n).t()
    compat.all_gather_single(out, every[r])
    same(out, torch.cat(every), "all_gather_into_tensor transposed")
    out = torch.empty(6, 4).t()
    compat.reduce_scatter_single(out, torch.cat(every).t().contiguous().t())
    same(out, every[r] * n, "reduce_scatter_tensor transposed")
    z = data(r, 5, torch.complex64)
    dist.group.WORLD.broadcast(z.conj(), 0).wait()  # what arrives is the conjugate of the memory
    same(z, data(0, 5, torch.complex64), "broadcast conjugated")
    if r == 0:
        dist.send(every[0].t(), 1)
    elif r == 1:
        x = torch.empty(4, 6).t()
        dist.recv(x, 0)
        same(x, every[0].t(), "send and recv transposed")


def in_place(world: World) -> None:
    """FSDP gathers into a buffer of which its input is a part."""
    n, r = world.size, world.rank
    flat = torch.zeros(5 * n)
    flat[5 * r : 5 * r + 5] = data(r, 5, torch.float32)
    compat.all_gather_single(flat, flat[5 * r : 5 * r + 5])
    same(flat, torch.cat([data(p, 5, torch.float32) for p in range(n)]), "all_gather in place")
    flat = data(r, 5 * n, torch.float32)
    compat.reduce_scatter_single(flat[5 * r : 5 * r + 5], flat)
    want = fold(torch.add, [data(p, 5 * n, torch.float32) for p in range(n)])[5 * r : 5 * r + 5]
    same(flat[5 * r : 5 * r + 5], want, "reduce_scatter in place")


def premultiplied(world: World) -> None:
    """PREMUL_SUM: every rank's factor multiplies its own input."""
    n, r = world.size, world.rank
    for dtype in FLOATS:
        for size in (5, 70_001):
            for factor in (0.5 * (r + 1), torch.tensor([0.5 * (r + 1)], dtype=dtype)):
                op = dist._make_nccl_premul_sum(factor)
                want = fold(torch.add, [data(p, size, torch.float64) * (0.5 * (p + 1)) for p in range(n)]).to(dtype)
                x = data(r, size, dtype)
                dist.all_reduce(x, op)
                same(x, want, f"all_reduce PREMUL_SUM {dtype}")
                x = data(r, size, dtype)
                dist.reduce(x, 0, op)
                if r == 0:
                    same(x, want, f"reduce PREMUL_SUM {dtype}")
                out = torch.empty(size, dtype=dtype)
                compat.reduce_scatter_single(out, data(r, size, dtype).repeat(n), op)
                same(out, want, f"reduce_scatter PREMUL_SUM {dtype}")


def coalesced(world: World) -> None:
    """The coalesced forms, through torch's coalescing manager and directly."""
    n, r = world.size, world.rank
    group = dist.group.WORLD
    kinds = [(3, torch.float32), (70_001, torch.float32), (4, torch.bfloat16), (0, torch.int64)]
    xs = [data(r, size, dtype, salt=i) for i, (size, dtype) in enumerate(kinds)]
    with dist.distributed_c10d._coalescing_manager(group, async_ops=True) as manager:
        for x in xs:
            dist.all_reduce(x)
    manager.wait()
    for i, (size, dtype) in enumerate(kinds):
        same(xs[i], reduced([data(p, size, dtype, salt=i) for p in range(n)], R.SUM), "coalesced all_reduce")
    outs = [torch.empty(n * size, dtype=dtype) for size, dtype in kinds]
    with dist.distributed_c10d._coalescing_manager(group):
        for i, (size, dtype) in enumerate(kinds):
            compat.all_gather_single(outs[i], data(r, size, dtype, salt=i))
    for i, (size, dtype) in enumerate(kinds):
        same(outs[i], torch.cat([data(p, size, dtype, salt=i) for p in range(n)]), "coalesced all_gather")
    outs = [torch.empty(size, dtype=dtype) for size, dtype in kinds]
    with dist.distributed_c10d._coalescing_manager(group):
        for i, (size, dtype) in enumerate(kinds):
            compat.reduce_scatter_single(outs[i], data(r, size, dtype, salt=i).repeat(n))
    for i, (size, dtype) in enumerate(kinds):
        same(outs[i], reduced([data(p, size, dtype, salt=i) for p in range(n)], R.SUM), "coalesced reduce_scatter")
    lists = [[torch.empty(size, dtype=dtype) for size, dtype in kinds] for _ in range(n)]
    group.allgather_coalesced(lists, [data(r, size, dtype, salt=i) for i, (size, dtype) in enumerate(kinds)]).wait()
    for p in range(n):
        for i, (size, dtype) in enumerate(kinds):
            same(lists[p][i], data(p, size, dtype, salt=i), "all_gather_coalesced")
    # The old style: a device makes torch call _start_coalescing and _end_coalescing around separate calls.
    xs = [data(r, 5, torch.float32), data(r, 9, torch.float32)]
    with dist.distributed_c10d._coalescing_manager(group, device=torch.device("cpu"), async_ops=True) as manager:
        group.allreduce([xs[0]])
        group.allreduce([xs[1]])
    manager.wait()
    for x in xs:
        same(x, reduced([data(p, x.numel(), torch.float32) for p in range(n)], R.SUM), "old style coalescing")
    group._start_coalescing(torch.device("cpu"))
    group.allreduce([xs[0]])
    group.barrier()
    works = group._end_coalescing(torch.device("cpu"))
    works.synchronize()
    assert works.is_completed()
    assert works.is_success()
    assert works.exception() is None
    assert works.result()[0] is xs[0]
    assert len(works.get_future().wait()) == 2


def in_pieces(world: World) -> int:
    """Messages longer than MPI's counts allow go in pieces: here, longer than 5,000 bytes."""
    before, transport.MAX_MESSAGE = transport.MAX_MESSAGE, 5_000
    try:
        checked = movements(world, (torch.float32, torch.bool))
        checked += reductions(world, (torch.int32, torch.bfloat16, torch.bool))
        if world.rank == 0:
            dist.send(data(0, 20_000, torch.float32), 1)
        elif world.rank == 1:
            x = torch.empty(20_000)
            assert dist.recv(x) == 0
            same(x, data(0, 20_000, torch.float32), "a message in pieces")
    finally:
        transport.MAX_MESSAGE = before
    return checked


def identity(world: World) -> None:
    """What torch asks a group about itself, from Python and from C++."""
    group = dist.group.WORLD
    assert (group.name(), group.getBackendName(), group._get_backend_name()) == ("mpi4py",) * 3
    assert (group.rank(), group.size()) == (group.getRank(), group.getSize()) == (world.rank, world.size)
    assert group.group_name == group.getGroupName() == "0"
    assert group.group_desc == group.getGroupDesc() == "default_pg"
    group.setGroupDesc("mine")
    group.setGroupName("0")
    assert group.group_desc == "mine"
    assert group._device_types == [torch.device("cpu")]
    assert not group._has_hooks()
    group._set_sequence_number_for_group()
    group.set_timeout(timedelta(seconds=1000))
    group.abort()
    assert dist.get_backend() == "mpi4py"


def short_forms(world: World) -> None:
    """``group.broadcast(x, 0)`` beside ``group.broadcast([x], options)``."""
    n, r = world.size, world.rank
    group = dist.group.WORLD
    every = [data(p, 6, torch.float32) for p in range(n)]
    total = fold(torch.add, every)
    for call in (
        lambda x: group.allreduce(x),
        lambda x: group.allreduce([x]),
        lambda x: group.allreduce(x, op=R.SUM, timeout=timedelta(seconds=60)),
        lambda x: group.allreduce([x], R.SUM),
        lambda x: group.allreduce_coalesced([x]),
        lambda x: group.allreduce([x], opts=dist.AllreduceOptions()),
    ):
        x = every[r].clone()
        call(x).wait()
        same(x, total, "short allreduce")
    x = every[r].clone()
    group.broadcast(x, 1).wait()
    same(x, every[1], "short broadcast")
    x = every[r].clone()
    group.reduce(x, root=0, op=R.MAX).wait()
    if r == 0:
        same(x, fold(torch.maximum, every), "short reduce")
    outs = [torch.empty(6) for _ in range(n)]
    group.allgather(outs, every[r]).wait()
    same(torch.stack(outs), torch.stack(every), "short allgather")
    group.gather(outs if r == 0 else [], every[r], 0).wait()
    out = torch.empty(6)
    group.scatter(out, every if r == 0 else [], root=0).wait()
    same(out, every[r], "short scatter")
    group.reduce_scatter(out, every).wait()
    same(out, every[r] * n, "short reduce_scatter")
    outs = [torch.empty(6) for _ in range(n)]
    group.alltoall(outs, every).wait()
    same(torch.stack(outs), every[r].repeat(n, 1), "short alltoall")
    out = torch.empty(6 * n)
    group.alltoall_base(out, torch.cat(every), [], []).wait()
    same(out, every[r].repeat(n), "short alltoall_base")
    group.barrier().wait()
    group.barrier(timeout=timedelta(seconds=60)).wait()
    for name in ("_allgather_base", "all_gather_single"):
        out = torch.empty(6 * n)
        getattr(group, name)(out, every[r]).wait()
        same(out, torch.cat(every), name)
    for name in ("_reduce_scatter_base", "reduce_scatter_single"):
        out = torch.empty(6)
        getattr(group, name)(out, torch.cat(every), dist.ReduceScatterOptions()).wait()
        same(out, every[r] * n, name)
    for name in ("allgather_into_tensor_coalesced", "all_gather_single_coalesced"):
        out = torch.empty(6 * n)
        getattr(group, name)([out], [every[r]]).wait()
        same(out, torch.cat(every), name)


def objects(world: World) -> list[Any]:
    n, r = world.size, world.rank
    everyone: list[Any] = [None] * n
    dist.all_gather_object(everyone, {"rank": r, "text": "あ" * (r + 1)})
    at_root: list[Any] | None = [None] * n if r == 1 else None
    dist.gather_object(("x", r), at_root, 1)
    box = [{"from": r}, [r]] if r == n - 1 else [None, None]
    dist.broadcast_object_list(box, n - 1)
    mine: list[Any] = [None]
    dist.scatter_object_list(mine, [f"for {p}" for p in range(n)] if r == 0 else None, 0)
    if r == 0:
        dist.send_object_list(["hello", 3], 1)
    got: list[Any] = [None, None]
    if r == 1:
        dist.recv_object_list(got, 0)
    return [everyone, at_root, box, mine, got]


def sparse(world: World) -> None:
    """gloo sums sparse COO tensors; so do we (torch's sparse embeddings under DDP)."""
    n, r = world.size, world.rank

    def made(p: int) -> torch.Tensor:
        indices = torch.tensor([[p, p + 1, p], [0, 1, 0]])
        return torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0 + p, 3.0]), (n + 1, 2))

    x = made(r)
    dist.all_reduce(x)
    same(x.to_dense(), fold(torch.add, [made(p).to_dense() for p in range(n)]), "sparse all_reduce")


def refused(world: World) -> list[str]:
    """Calls without meaning raise on the caller, one line each, and leave the group usable."""
    group = dist.group.WORLD
    n = world.size
    calls = [
        lambda: dist.all_reduce(torch.ones(2), R.BAND),
        lambda: group.allreduce([torch.ones(2, dtype=torch.complex64)], R.MAX),
        lambda: dist.all_reduce(torch.ones(2, dtype=torch.bool), R.AVG),
        lambda: group.allreduce([torch.ones(2, device="meta")]),
        lambda: compat.all_gather_single(torch.empty(3), torch.empty(2)),
        lambda: compat.reduce_scatter_single(torch.empty(3), torch.empty(2)),
        lambda: group.allgather([[torch.empty(1)] * (n + 1)], [torch.empty(1)]),
        lambda: group.reduce_scatter([torch.empty(1)], [[torch.empty(1)] * (n + 1)]),
        lambda: group.all_to_all_single(torch.empty(n), torch.empty(n + 1), [], []),
        lambda: group.all_to_all_single(torch.empty(n), torch.empty(n), [1] * n, [2] * n),
        lambda: group.alltoall([torch.empty(1)], [torch.empty(1)] * n),
        lambda: group.send([torch.empty(1)], 0, -1),
        lambda: dist.all_reduce(torch.eye(2).to_sparse(), R.MAX),
    ]
    messages = []
    for call in calls:
        try:
            call()
            messages.append("")
        except ValueError as error:
            messages.append(str(error))
    x = torch.ones(1)
    dist.all_reduce(x)
    assert x.item() == n
    return messages
