"""Every operation on every backend: gradients against differences, values against each other and plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pyjpllm import ops
from pyjpllm.ops import rope, torch_attention, torch_loss
from tests.ops.cases import CASES, COUNTED, LINEAR, LLAMA3, as_tuple, run

BACKENDS = ("reference", "torch")


@pytest.fixture(params=BACKENDS)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_differences(backend, name):
    case = CASES[name]
    assert torch.autograd.gradcheck(case.function, case.inputs(), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_backends_agree_in_fp64(name):
    with ops.use_backend("reference"):
        expected = run(CASES[name])
    with ops.use_backend("torch"):
        actual = run(CASES[name])
    torch.testing.assert_close(actual, expected, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_backends_agree_in_lower_precision(name, dtype):
    with ops.use_backend("reference"):
        expected = run(CASES[name], dtype)
    with ops.use_backend("torch"):
        actual = run(CASES[name], dtype)
    assert [y.dtype for y in actual[0]] == [y.dtype for y in expected[0]]
    assert [g.dtype for g in actual[1]] == [dtype] * len(actual[1])
    # Some operations round in the middle, so values that are sums of larger ones keep the larger ones' rounding.
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_meta_device_gives_the_same_shapes_and_types(name):
    case = CASES[name]
    expected_outputs, expected_grads = run(case, torch.bfloat16)
    inputs = case.inputs(torch.bfloat16, "meta")
    outputs = as_tuple(case.function(*inputs))
    grads = torch.autograd.grad(outputs, inputs, [torch.empty_like(y) for y in outputs])
    for actual, expected in zip((*outputs, *grads), (*expected_outputs, *expected_grads), strict=True):
        assert actual.is_meta
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)


# Plain formulas, independent of both backends.


def naive_attention(q: Tensor, k: Tensor, v: Tensor, seen_BST: Tensor, scale: float) -> Tensor:
    out = torch.zeros_like(q)
    batch, queries, heads, _ = q.shape
    for b in range(batch):
        for s in range(queries):
            for h in range(heads):
                kv = h // (heads // k.shape[2])
                keys = [t for t in range(k.shape[1]) if seen_BST[b, s, t]]
                if not keys:
                    continue
                scores = torch.stack([scale * q[b, s, h].dot(k[b, t, kv]) for t in keys])
                weights = scores.exp() / scores.exp().sum()
                out[b, s, h] = sum(w * v[b, t, kv] for w, t in zip(weights, keys, strict=True))
    return out


def test_attention_formula(backend):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, h, 4, dtype=torch.float64) for n, h in ((3, 6), (5, 2), (5, 2)))
    ids, key_ids = torch.tensor([[1, 1, 2], [5, 6, 7]]), torch.tensor([[1, 1, 1, 1, 2], [6, 5, 5, 5, 7]])
    seen = torch.zeros(2, 3, 5, dtype=torch.bool)
    for b in range(2):
        for s in range(3):
            for t in range(5):
                position = s + 2
                seen[b, s, t] = t <= position and position - t < 3 and ids[b, s] == key_ids[b, t]
    assert not seen[1, 1].any()  # a query that sees no key gives zeros
    out = ops.attention(q, k, v, document_ids_BS=ids, key_document_ids_BT=key_ids, window=3)
    torch.testing.assert_close(out, naive_attention(q, k, v, seen, 0.5), atol=1e-14, rtol=1e-12)


def test_a_query_that_sees_no_key_has_zero_gradients(backend):
    q, k, v = (torch.randn(1, 2, 1, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    out = ops.attention(q, k, v, document_ids_BS=torch.tensor([[0, 1]]), key_document_ids_BT=torch.tensor([[2, 2]]))
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(not tensor.any() for tensor in (out, *grads))


@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3])
def test_rotary_formula(backend, scaling):
    d, theta = 8, 50.0
    q = torch.randn(1, 3, 1, d, dtype=torch.float64)
    positions = torch.tensor([[3, 0, 77]])
    turned, same = ops.rotary(q, q, positions, theta, scaling)
    torch.testing.assert_close(turned, same)
    for s, position in enumerate(positions[0].tolist()):
        for i in range(d // 2):
            frequency = theta ** (-2 * i / d)
            if scaling is LINEAR:
                frequency /= LINEAR.factor
            if scaling is LLAMA3:
                wavelength = 2 * math.pi / frequency
                smooth = (LLAMA3.original_max_position / wavelength - 1) / (4 - 1)
                smooth = min(1, max(0, smooth))
                frequency = (1 - smooth) * frequency / LLAMA3.factor + smooth * frequency
            expected = complex(q[0, s, 0, i], q[0, s, 0, i + d // 2]) * np.exp(1j * position * frequency)
            assert abs(complex(turned[0, s, 0, i], turned[0, s, 0, i + d // 2]) - expected) < 1e-12


def test_llama3_scaling_has_all_three_ranges():
    plain = rope.inverse_frequencies(16, 100.0, None, torch.float64)
    ratio = plain / rope.inverse_frequencies(16, 100.0, LLAMA3, torch.float64)
    assert ratio[0] == 1
    assert ratio[-1] == LLAMA3.factor
    assert ((ratio > 1) & (ratio < LLAMA3.factor)).any()


def test_unknown_scaling_is_refused():
    class Yarn:
        kind = "yarn"

    with pytest.raises(ValueError, match="yarn"):
        rope.inverse_frequencies(4, 1e4, Yarn(), torch.float32)  # type: ignore[arg-type]


def test_swiglu_is_stable(backend):
    gate = torch.tensor([-1000.0, 1000.0, 0.0, -30.0], dtype=torch.float64, requires_grad=True)
    y = ops.swiglu(gate, torch.full_like(gate, 2.0))
    (grad,) = torch.autograd.grad(y.sum(), gate)
    torch.testing.assert_close(y, torch.tensor([0, 2000, 0, -60 * math.exp(-30)], dtype=torch.float64))
    torch.testing.assert_close(grad, torch.tensor([0, 2, 1, 2 * -29 * math.exp(-30)], dtype=torch.float64))


def test_cross_entropy_formula(backend):
    torch.manual_seed(0)
    hidden, weight = (torch.randn(7, 4, dtype=torch.float64) for _ in range(2))
    targets = COUNTED
    result = ops.linear_cross_entropy(hidden, weight, targets, z_loss=1e-2)
    logits = hidden @ weight.T
    valid = targets != -100
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(result.loss, expected, atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(result.z_loss, 1e-2 * torch.logsumexp(logits, 1)[valid].square().sum())
    assert result.count.dtype == torch.int64
    assert result.count == 6


def test_target_outside_of_the_vocabulary_is_refused_by_the_loss(backend):
    hidden, weight = torch.randn(2, 4), torch.randn(3, 4)
    for target in (3, -1):
        with pytest.raises(IndexError, match=f"{target}"):
            ops.linear_cross_entropy(hidden, weight, torch.tensor([0, target]))


def test_all_ignored_is_zero_with_zero_gradients(backend):
    hidden, weight = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    result = ops.linear_cross_entropy(hidden, weight, torch.full((3,), -100), z_loss=1.0)
    grads = torch.autograd.grad(result.loss + result.z_loss, (hidden, weight))
    assert result.loss == result.z_loss == result.count == 0
    assert not any(g.any() for g in grads)


def test_logsumexp_survives_large_logits(backend):
    hidden = torch.full((1, 2), 1e4, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.0, 1], [1, 0], [-1, -1]], dtype=torch.float64)
    lse, target = ops.linear_logsumexp(hidden, weight, torch.tensor([1]))
    assert lse.item() == 2e4
    assert target.item() == 1e4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_is_wide_for_narrow_inputs(backend, dtype):
    result = ops.linear_cross_entropy(torch.randn(3, 4).to(dtype), torch.randn(5, 4).to(dtype), torch.tensor([0, 1, 2]))
    assert result.loss.dtype == torch.float32


def test_embedding_sums_many_narrow_gradients(backend):
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    ids = torch.zeros(4096, dtype=torch.int64)
    (grad,) = torch.autograd.grad(ops.embedding(ids, weight).sum(), weight)
    assert grad.flatten().tolist() == [4096, 0]  # summed in bf16 it would stay at 256


def test_head_sums_many_narrow_gradients(monkeypatch):
    monkeypatch.setattr(torch_loss, "CHUNK_BYTES", 4 * 2 * 16)  # 16 tokens a chunk
    hidden = torch.ones(4096, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    lse, _ = ops.linear_logsumexp(hidden, weight, torch.zeros(4096, dtype=torch.int64))
    (grad,) = torch.autograd.grad(lse.sum(), weight)
    assert grad.flatten().tolist() == [2048, 2048]


def test_grouped_sizes_must_add_up(backend):
    with pytest.raises(ValueError, match=r"add up to 3, but there are 4 rows"):
        ops.grouped_linear(torch.randn(4, 2), torch.randn(2, 3, 2), torch.tensor([1, 2]))


def test_embedding_id_outside_is_refused(backend):
    with pytest.raises(IndexError):
        ops.embedding(torch.tensor([5]), torch.randn(5, 2))


@pytest.mark.parametrize(
    ("shapes", "settings", "message"),
    [
        (((1, 2, 3, 4), (1, 2, 2, 4)), {}, "H a multiple of K"),
        (((1, 2, 2, 4), (1, 2, 2, 6)), {}, "H a multiple of K"),
        (((1, 3, 2, 4), (1, 2, 2, 4)), {}, "only 2 keys"),
        (((1, 2, 2, 4), (1, 2, 2, 4)), {"window": 0}, "window must be at least 1"),
        (((1, 2, 2, 4), (1, 3, 2, 4)), {"document_ids_BS": torch.zeros(1, 2)}, "key_document_ids_BT must be given"),
        (((1, 2, 2, 4), (1, 2, 2, 4)), {"key_document_ids_BT": torch.zeros(1, 2)}, "without document_ids_BS"),
    ],
)
def test_attention_refuses_bad_arguments(shapes, settings, message):
    q, k = (torch.randn(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        ops.attention(q, k, k, **settings)


def test_mask_is_made_once_for_layers_that_share_document_ids(monkeypatch):
    calls = []
    original = torch_attention.visible
    monkeypatch.setattr(torch_attention, "visible", lambda *a, **k: calls.append(1) or original(*a, **k))
    q = torch.randn(1, 3, 2, 4)
    ids = torch.tensor([[0, 0, 1]])
    first = ops.attention(q, q, q, document_ids_BS=ids)
    second = ops.attention(q, q, q, document_ids_BS=ids)
    assert len(calls) == 1
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    ids[0, 1] = 1  # written to: the mask is made again
    third = ops.attention(q, q, q, document_ids_BS=ids)
    assert len(calls) == 2
    assert not torch.equal(first, third)


def test_tables_made_in_inference_mode_do_not_leak_into_training():
    q = torch.randn(1, 2, 1, 4, requires_grad=True)
    positions = torch.tensor([[0, 1]])
    with torch.inference_mode():
        ops.rotary(q, q, positions, 1e4)
    turned, _ = ops.rotary(q, q, positions, 1e4)
    turned.sum().backward()
    assert q.grad is not None
