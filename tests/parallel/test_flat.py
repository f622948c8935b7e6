"""Flat buffers: nothing is lost, moved or counted twice; gradients land in them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pyjpllm.parallel import FlatParameters, Layout, set_layout

SHAPES = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=12)


def parameters(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(len(shapes))
    return {f"p{i}": nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for i, s in enumerate(shapes)}


@settings(deadline=None)
@given(SHAPES, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), st.integers(1, 400))
def test_values_places_and_buckets(shapes: list[tuple[int, ...]], dtype: torch.dtype, bucket_bytes: int) -> None:
    params = parameters(shapes, dtype)
    before = {name: param.detach().clone() for name, param in params.items()}
    master_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    flat = FlatParameters(params.items(), master_dtype=master_dtype, bucket_bytes=bucket_bytes)

    assert sorted(entry.name for _, entry in flat.entries()) == sorted(params)
    for group in flat.groups:
        assert (group.master is group.model) == (dtype == master_dtype)
        assert group.model.dtype == dtype
        assert group.master.dtype == group.grad.dtype == master_dtype
        assert [int(e.name[1:]) for e in group.entries] == sorted(
            (int(e.name[1:]) for e in group.entries), reverse=True
        )
        inside = torch.zeros(group.model.shape, dtype=torch.bool)
        for name, param, start, stop, _ in group.entries:
            assert (param.ndim >= 2) == group.weight_decay
            assert stop - start == param.numel()
            assert not inside[start:stop].any()
            inside[start:stop] = True
            assert torch.equal(param, before[name])
            assert param.numel() == 0 or param.data_ptr() == group.model[start:].data_ptr()
            assert torch.equal(group.master[start:stop].view(param.shape).to(dtype), before[name])
        assert not group.model[~inside].any()
        assert not group.master[~inside].any()

    seen: list[str] = []
    for bucket in flat.buckets:
        assert bucket.entries[0].start == bucket.start
        assert bucket.entries[-1].stop == bucket.stop
        size = bucket.grad.nbytes
        assert size < bucket_bytes + 256 + math.prod(bucket.entries[-1].param.shape) * bucket.grad.element_size()
        seen += [entry.name for entry in bucket.entries]
    assert sorted(seen) == sorted(params)


def test_buckets_are_ordered_by_their_last_parameter() -> None:
    params = parameters([(4, 4), (4,), (4, 4), (4,), (4, 4)])
    flat = FlatParameters(params.items(), bucket_bytes=1)
    assert [str(bucket) for bucket in flat.buckets] == ["p4", "p3", "p2", "p1", "p0"]
    flat = FlatParameters(params.items(), bucket_bytes=1e9)
    assert [str(bucket) for bucket in flat.buckets] == ["p3 .. p1", "p4 .. p0"]


def test_gradients_add_up_and_leave_the_parameter() -> None:
    params = parameters([(3, 2), (3,)])
    flat = FlatParameters(params.items())
    heard: list[str] = []
    flat.listen(lambda entry: heard.append(entry.name))
    for factor in (1.0, 2.0):
        ((params["p0"] * factor).sum() + (params["p1"] * 10 * factor).sum()).backward()
        assert params["p0"].grad is None
    matrix, vector = flat.groups
    assert torch.equal(matrix.view(matrix.grad, matrix.entries[0]), torch.full((3, 2), 3.0))
    assert torch.equal(vector.view(vector.grad, vector.entries[0]), torch.full((3,), 30.0))
    assert sorted(heard) == ["p0", "p0", "p1", "p1"]
    flat.zero_grad()
    assert not matrix.grad.any()
    flat.listen(None)
    flat.remove_hooks()
    params["p0"].sum().backward()
    assert params["p0"].grad is not None
    assert not matrix.grad.any()


def test_sixteen_bit_gradients_add_up_in_fp32() -> None:
    param = nn.Parameter(torch.zeros(1, 1, dtype=torch.bfloat16))
    flat = FlatParameters([("p", param)])
    for _ in range(300):  # in BF16 a sum of ones stays at 256
        param.sum().backward()
    assert flat.groups[0].grad[0].item() == 300


def test_a_parameter_used_twice_is_held_once() -> None:
    shared = nn.Parameter(torch.ones(2, 2))
    flat = FlatParameters([("embedding.weight", shared), ("head.weight", shared)])
    assert [entry.name for _, entry in flat.entries()] == ["embedding.weight"]
    (shared.sum() + 2 * shared.sum()).backward()
    assert torch.equal(flat.groups[0].grad[:4], torch.full((4,), 3.0))


def test_master_and_model_follow_each_other() -> None:
    param = nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16))
    flat = FlatParameters([("p", param)])
    (group,) = flat.groups
    group.master.fill_(1 + 2**-12)
    flat.master_to_model()
    assert torch.equal(param, torch.ones(2, 2, dtype=torch.bfloat16))
    with torch.no_grad():
        param.fill_(3)
    flat.model_to_master()
    assert torch.equal(group.master[:4], torch.full((4,), 3.0))


def test_a_model_is_turned_into_bf16_with_exact_masters() -> None:
    weight = nn.Parameter(torch.full((2, 3), 1 + 2**-20))
    (weight * 2).sum().backward()  # autograd has seen it as FP32 before
    weight.grad = None
    flat = FlatParameters([("p", weight)], model_dtype=torch.bfloat16)
    (group,) = flat.groups
    assert weight.dtype == group.model.dtype == torch.bfloat16
    assert torch.equal(weight, torch.ones(2, 3, dtype=torch.bfloat16))
    assert torch.equal(group.master[:6], torch.full((6,), 1 + 2**-20))
    (weight * 2).sum().backward()
    assert torch.equal(group.grad[:6], torch.full((6,), 2.0))


def test_frozen_parameters_are_left_out() -> None:
    params = parameters([(2, 2), (2, 2)])
    params["p0"].requires_grad_(False)
    flat = FlatParameters(params.items())
    assert [entry.name for _, entry in flat.entries()] == ["p1"]
    params["p1"].requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter"):
        FlatParameters(params.items())


def test_mixed_types_are_refused() -> None:
    params = {"a": nn.Parameter(torch.zeros(1)), "b": nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))}
    with pytest.raises(ValueError, match="several types"):
        FlatParameters(params.items())


def test_a_piece_decays_like_its_whole() -> None:
    row = nn.Parameter(torch.zeros(0, 4))
    set_layout(row, Layout.split((3, 4), 0, (3, 3)))
    (group,) = FlatParameters([("head.weight", row)]).groups
    assert group.weight_decay
    assert group.grad.numel() == 0


def test_on_the_meta_device() -> None:
    param = nn.Parameter(torch.zeros(3, 3, device="meta", dtype=torch.bfloat16))
    flat = FlatParameters([("p", param)])
    (param @ param).sum().backward()
    assert flat.groups[0].grad.is_meta
    assert flat.device.type == "meta"
