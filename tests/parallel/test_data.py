"""Data parallelism: what travels, in which order, and that nothing hangs when ranks differ or fail."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pyjpllm.config.schema import ModelConfig
from pyjpllm.distributed import Mesh, World, collectives, make_mesh
from pyjpllm.model import Transformer
from pyjpllm.parallel import DataParallel, FlatParameters, Layout, global_grad_norm, set_layout
from tests.mpi import run_ranks

NAMES = "abcde"
ALONE = World(rank=0, size=1, local_rank=0, local_size=1, backend="mpi4py")


@functools.cache
def mesh_of(world: World, tp: int = 1) -> Mesh:
    return make_mesh(world, tp=tp)


def vectors() -> dict[str, nn.Parameter]:
    """Five parameters, all alike on all ranks; with one a bucket, buckets go e, d, c, b, a."""
    return {name: nn.Parameter(torch.full((2, 3), float(index))) for index, name in enumerate(NAMES)}


def loss(params: dict[str, nn.Parameter], names: str, weight: float) -> torch.Tensor:
    """Sum of ``weight * (1 + index) * p`` over ``names``, built so that backward reaches the last name first."""
    total = torch.zeros(())
    for name in names:
        total = total + (params[name] * (weight * (1 + NAMES.index(name)))).sum()
    return total


def gradient(flat: FlatParameters, name: str) -> float:
    """The one value that all elements of the gradient of ``name`` have."""
    for group, entry in flat.entries():
        if entry.name == name:
            values = group.grad[entry.start : entry.stop].unique()
            assert values.numel() == 1
            return float(values)
    raise AssertionError(name)


@contextmanager
def recorded_sums() -> Iterator[list[tuple[int, bool]]]:
    """The (elements, asynchronous) of every all_reduce, in the order of the calls."""
    calls: list[tuple[int, bool]] = []
    original = collectives.all_reduce

    def recording(tensor: torch.Tensor, group: Any, op: str = "sum", async_op: bool = False) -> Any:
        calls.append((tensor.numel(), async_op))
        return original(tensor, group, op, async_op)

    collectives.all_reduce = recording
    try:
        yield calls
    finally:
        collectives.all_reduce = original


def check_any_order_of_backward(world: World) -> None:
    """Ranks finish parameters in different orders, in two micro-batches: the sums are right, and the same bits."""
    mesh = mesh_of(world)
    for overlap in (True, False):
        for bucket_bytes in (1, 60, 1e9):
            params = vectors()
            flat = FlatParameters(params.items(), bucket_bytes=bucket_bytes)
            dp = DataParallel(flat, mesh, overlap=overlap)
            shift = world.rank % len(NAMES)
            for _ in range(2):  # steps
                flat.zero_grad()
                for i in range(2):
                    with dp.accumulate(last=i == 1):
                        loss(params, NAMES[shift:] + NAMES[:shift], weight=1 + i + world.rank).backward()
                dp.finish()
                total = sum(1 + i + rank for i in range(2) for rank in range(world.size))
                for index, name in enumerate(NAMES):
                    assert gradient(flat, name) == total * (1 + index)


def check_what_travels_when(world: World) -> None:
    """Nothing before the last micro-batch; then all buckets, in their order, before backward returns."""
    mesh = mesh_of(world)
    params = {name: nn.Parameter(torch.zeros(2, 1 + index)) for index, name in enumerate(NAMES)}
    flat = FlatParameters(params.items(), bucket_bytes=1)
    dp = DataParallel(flat, mesh)
    with recorded_sums() as calls:
        with dp.accumulate(last=False):
            loss(params, NAMES, 1.0).backward()
        assert not calls
        with dp.accumulate(last=True):
            loss(params, NAMES, 1.0).backward()
            assert calls == [(2 * (1 + index), True) for index in reversed(range(5))]
        dp.finish()
        assert len(calls) == 5
    with recorded_sums() as calls:
        dp = DataParallel(flat, mesh, overlap=False)
        with dp.accumulate(last=True):
            loss(params, NAMES, 1.0).backward()
            assert not calls
        dp.finish()
        assert len(calls) == 5


def check_a_bucket_leaves_while_backward_goes_on(world: World) -> None:
    mesh = mesh_of(world)
    params = vectors()
    flat = FlatParameters(params.items(), bucket_bytes=1)
    dp = DataParallel(flat, mesh)
    sent_when_a_is_reached = []
    with recorded_sums() as calls, dp.accumulate(last=True):
        a = params["a"] * 1
        a.register_hook(lambda grad: sent_when_a_is_reached.append(len(calls)))
        (a.sum() + loss(params, "bcde", 1.0)).backward()
    dp.finish()
    assert sent_when_a_is_reached == [4]


def check_chunks_that_end_one_after_the_other(world: World) -> None:
    """As in a pipeline: c to e have their last backward before a and b have; c gets nothing in it."""
    params = vectors()
    flat = FlatParameters(params.items(), bucket_bytes=1)
    dp = DataParallel(flat, mesh_of(world))
    flat.zero_grad()
    with recorded_sums() as calls:
        with dp.accumulate(last=False):
            loss(params, "abcde", 1.0).backward()
        with dp.accumulate(last=True, names={"c", "d", "e"}):
            loss(params, "de", 1.0).backward()
            assert len(calls) == 2
        assert len(calls) == 3
        with dp.accumulate(last=False):
            loss(params, "b", 1.0).backward()
        assert len(calls) == 3
        with dp.accumulate(last=True, names={"a", "b"}):
            loss(params, "ab", 1.0).backward()
            assert len(calls) == 5
        dp.finish()
    expected = {"a": 2, "b": 2 * 3, "c": 3, "d": 4 * 2, "e": 5 * 2}
    assert {name: gradient(flat, name) for name in NAMES} == {n: v * world.size for n, v in expected.items()}


def check_parameters_without_gradient(world: World) -> None:
    """``a`` is used by nobody, ``c`` by rank 0 only, ``e`` in the first micro-batch only: no rank waits for ever."""
    mesh = mesh_of(world)
    params = vectors()
    flat = FlatParameters(params.items(), bucket_bytes=1)
    dp = DataParallel(flat, mesh)
    flat.zero_grad()
    with dp.accumulate(last=False):
        loss(params, "bde", 1.0).backward()
    with dp.accumulate(last=True):
        loss(params, "bcd" if world.rank == 0 else "bd", 1.0).backward()
    dp.finish()
    expected = {"a": 0, "b": 2 * 2 * world.size, "c": 3, "d": 4 * 2 * world.size, "e": 5 * world.size}
    assert {name: gradient(flat, name) for name in NAMES} == expected


def check_a_second_backward_is_refused(world: World) -> None:
    params = vectors()
    flat = FlatParameters(params.items(), bucket_bytes=1)
    dp = DataParallel(flat, mesh_of(world))

    def backward_twice() -> None:
        with dp.accumulate(last=True):
            loss(params, NAMES, 1.0).backward()
            loss(params, "e", 1.0).backward()

    with pytest.raises(RuntimeError, match="gradient of e came after its bucket had been sent"):
        backward_twice()
    with pytest.raises(RuntimeError, match="backward of this step failed"):
        dp.finish()


def check_norm_counts_each_piece_once(world: World) -> None:
    """One matrix split over tp, one norm that all hold: the norm of the whole, the same bits everywhere."""
    mesh = mesh_of(world, tp=world.size)
    generator = torch.Generator().manual_seed(5)
    matrix, vector = torch.randn(world.size, 1100, 1100, generator=generator), torch.randn(3, generator=generator)
    params = {"w": nn.Parameter(torch.zeros(1100, 1100)), "norm": nn.Parameter(torch.zeros(3))}
    shape = (world.size * 1100, 1100)
    set_layout(params["w"], Layout.split(shape, 0, (world.rank * 1100, (world.rank + 1) * 1100)))
    set_layout(params["norm"], Layout.whole((3,), copies=world.size))
    flat = FlatParameters(params.items())
    ((params["w"] * matrix[world.rank]).sum() + (params["norm"] * vector).sum()).backward()
    norm = global_grad_norm(flat, mesh)
    expected = float((matrix.double().square().sum() + vector.double().square().sum()).sqrt())
    assert abs(norm - expected) < 1e-12 * expected
    assert collectives.broadcast_object(norm, mesh.world_group) == norm


def check_sixteen_bit(world: World) -> None:
    """BF16 gradients are summed in FP32 over micro-batches and ranks: no bit of a sum of small ones is lost."""
    param = nn.Parameter(torch.zeros(4, 4, dtype=torch.bfloat16))
    flat = FlatParameters([("p", param)])
    dp = DataParallel(flat, mesh_of(world))
    flat.zero_grad()
    for i in range(3):
        with dp.accumulate(last=i == 2):
            (param * (256.0 if i == 0 else 1.0)).sum().backward()
    dp.finish()
    assert gradient(flat, "p") == 258 * world.size


CHECKS: list[Callable[[World], None]] = [
    check_any_order_of_backward,
    check_what_travels_when,
    check_a_bucket_leaves_while_backward_goes_on,
    check_chunks_that_end_one_after_the_other,
    check_parameters_without_gradient,
    check_a_second_backward_is_refused,
    check_norm_counts_each_piece_once,
    check_sixteen_bit,
]


def check_data_parallel(world: World) -> None:
    """All of this file's checks that need several ranks; `test_three_ranks` walks them."""
    for check in CHECKS:
        check(world)


def one_rank_fails(world: World) -> None:
    """Rank 1 fails in the middle of its last backward, with buckets of the others under way."""
    params = vectors()
    flat = FlatParameters(params.items(), bucket_bytes=1)
    dp = DataParallel(flat, mesh_of(world))
    with dp.accumulate(last=True):
        c = params["c"] * 1
        if world.rank == 1:
            c.register_hook(give_up)
        (loss(params, "ab", 1.0) + c.sum() + loss(params, "de", 1.0)).backward()
    dp.finish()


def give_up(grad: torch.Tensor) -> None:
    raise ArithmeticError("rank 1 gives up")


def test_a_rank_that_fails_ends_the_others() -> None:
    with pytest.raises(AssertionError, match="rank 1 gives up"):
        run_ranks(one_rank_fails, 2, timeout=60)


def test_alone_nothing_travels() -> None:
    for check in (check_any_order_of_backward, check_parameters_without_gradient, check_norm_counts_each_piece_once):
        check(ALONE)


def test_an_error_in_backward_leaves_a_step_that_cannot_be_finished() -> None:
    params = vectors()
    dp = DataParallel(FlatParameters(params.items()))
    with pytest.raises(ZeroDivisionError), dp.accumulate(last=True):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="backward of this step failed"):
        dp.finish()


def test_a_micro_batch_after_the_last_one_is_refused() -> None:
    dp = DataParallel(FlatParameters(vectors().items()))
    with dp.accumulate(last=True):
        pass
    with pytest.raises(RuntimeError, match=r"finish\(\) comes first"), dp.accumulate(last=False):
        pass


def test_a_sum_that_fails_names_its_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def wait(self) -> None:
            raise OSError("link down")

    params = vectors()
    mesh = SimpleNamespace(group=lambda axis: object())
    dp = DataParallel(FlatParameters(params.items()), mesh)  # type: ignore[arg-type]
    monkeypatch.setattr(collectives, "all_reduce", lambda *args, **kwargs: Broken())
    with dp.accumulate(last=True):
        loss(params, NAMES, 1.0).backward()
    with pytest.raises(RuntimeError, match=r"gradients of e \.\. a over their replicas failed") as caught:
        dp.finish()
    assert isinstance(caught.value.__cause__, OSError)


def test_a_step_on_the_meta_device() -> None:
    """Nothing in the step needs a CPU tensor: the meta device refuses one."""
    config = ModelConfig(
        hidden_size=8,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        intermediate_size=8,
        vocab_size=11,
        qk_norm=True,
    )
    model = Transformer(config, dtype=torch.bfloat16, device="meta")
    flat = FlatParameters(model.named_parameters())
    dp = DataParallel(flat)
    ids_BS = torch.zeros(2, 5, dtype=torch.int64, device="meta")
    with dp.accumulate(last=True):
        out = model.loss(ids_BS, ids_BS, z_loss=1e-4)
        (out.loss + out.z_loss).backward()
    dp.finish()
    assert global_grad_norm(flat, mesh_of(ALONE)) == 0.0
