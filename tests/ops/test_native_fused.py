"""The fused native operations as torch sees them: every storage type, gradients, tracing, recomputation, refusals.

Letters: M rows, D width, B batch, S sequence, H query heads, K key heads.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from pyjpllm import ops
from pyjpllm.errors import UserError
from pyjpllm.ops import native
from tests.ops.cases import CASES, as_tuple, run

TYPES = [torch.float32, torch.bfloat16, torch.float16]
FUSED = [
    name
    for name, case in CASES.items()
    if case.operation in ("rms_norm", "add_rms_norm", "swiglu", "rotary", "embedding")
]


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, grad: bool = True) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)
    return made.requires_grad_(grad)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", FUSED)
def test_equals_the_reference_in_every_type(name, dtype):
    with ops.use_backend("reference"):
        expected = run(CASES[name], dtype)
    with ops.use_backend("native"):
        actual = run(CASES[name], dtype)
    # One rounding of the result on both sides; FP32 has the roundings of the arithmetic too.
    tolerance = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def norm_of_sum(x, update, weight):
    return native.add_rms_norm(x, update, weight, 1e-5)


FORMULAS = {
    "add_rms_norm": (norm_of_sum, lambda x, u, w: (x + u, torch.nn.functional.rms_norm(x + u, w.shape, w, 1e-5))),
    "layer_norm": (
        lambda x, w, b: native.layer_norm(x, w, b, 1e-5),
        lambda x, w, b: torch.nn.functional.layer_norm(x, w.shape, w, b, 1e-5),
    ),
    "softmax": (native.softmax, lambda x: torch.softmax(x, -1)),
}


@pytest.mark.parametrize("lead", [(1,), (0,), (5,), (2, 3), (2, 0, 3)])
@pytest.mark.parametrize("name", FORMULAS)
def test_equals_the_formula(name, lead):
    function, formula = FORMULAS[name]
    shapes = {"add_rms_norm": [(*lead, 37)] * 2 + [(37,)], "layer_norm": [(*lead, 37), (37,), (37,)]}
    inputs = [randn(*shape, seed=i) for i, shape in enumerate(shapes.get(name, [(*lead, 37)]))]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    results = []
    for call, xs in ((function, inputs), (formula, wide)):
        outputs = as_tuple(call(*xs))
        seeds = [randn(*y.shape, seed=i, grad=False).to(y.dtype) for i, y in enumerate(outputs)]
        results.append([*outputs, *torch.autograd.grad(outputs, xs, seeds)])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("used", [0, 1])
def test_only_one_result_of_add_rms_norm_used(used):
    x, u, w = randn(3, 8), randn(3, 8, seed=1), randn(8)
    grads = torch.autograd.grad(norm_of_sum(x, u, w)[used].sum(), (x, u, w), allow_unused=True)
    outputs = x + u, torch.nn.functional.rms_norm(x + u, w.shape, w, 1e-5)
    wants = torch.autograd.grad(outputs[used].sum(), (x, u, w), allow_unused=True)
    for got, want in zip(grads, wants, strict=True):
        torch.testing.assert_close(got, want)


OPCHECKS = {
    "add_rms_norm": lambda: (randn(2, 3, 17), randn(2, 3, 17, seed=1), randn(17), 1e-5),
    "layer_norm": lambda: (randn(2, 3, 17), randn(17), randn(17, seed=1), 1e-5),
    "layer_norm_backward": lambda: (
        *(randn(3, 17, grad=False), randn(3, 17, grad=False, seed=1), randn(17, grad=False)),
        *(torch.zeros(3), torch.ones(3)),
    ),
    "embedding": lambda: (torch.tensor([[0, 4, 4], [1, 0, 4]]), randn(5, 17)),
    "embedding_backward": lambda: (randn(2, 3, 17, grad=False), torch.tensor([[0, 4, 4], [1, 0, 4]]), 5),
    "sum_of_squares": lambda: (randn(2, 17, grad=False),),
    "softmax": lambda: (randn(2, 17),),
    "softmax_backward": lambda: (randn(2, 17, grad=False), randn(2, 17, seed=1, grad=False)),
    "rotary": lambda: (randn(2, 3, 4, 8), randn(2, 3, 2, 8), randn(2, 3, 8, grad=False), False),
}


@pytest.mark.parametrize("name", OPCHECKS)
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.jpllm, name), OPCHECKS[name]())


def together(x, update, weight, positions):
    total, y = native.add_rms_norm(x, update, weight, 1e-5)
    q = y.view(*positions.shape, -1, 8)
    turned, _ = native.rotary(q, q, positions, 1e4)
    return total + native.softmax(turned.reshape(x.shape))


def test_compiled_whole_and_recomputed():
    def gradients(function):
        xs = randn(6, 16), randn(6, 16, seed=1), randn(16)
        y = function(*xs, torch.arange(3).expand(2, 3))
        return [y, *torch.autograd.grad(y.square().sum(), xs)]

    plain = gradients(together)
    for one, other in zip(gradients(lambda *xs: checkpoint(together, *xs, use_reentrant=False)), plain, strict=True):
        assert torch.equal(one, other)
    compiled = torch.compile(together, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled), plain)


def test_rotary_takes_any_strides():
    q, k, positions = randn(2, 5, 4, 16), randn(2, 5, 2, 16), torch.tensor([[0, 3, 1, 9, 700], [5, 4, 3, 2, 1]])
    expected = native.rotary(q, k, positions, 1e4)
    turned = native.rotary(q.transpose(1, 2).contiguous().transpose(1, 2), k[..., :16], positions, 1e4)
    sliced = native.rotary(torch.cat([q, k], 2)[:, :, :4], torch.cat([q, k], 2)[:, :, 4:], positions, 1e4)
    crossed = native.rotary(q.transpose(2, 3).contiguous().transpose(2, 3), k, positions, 1e4)
    for other in (turned, sliced, crossed):
        assert all(map(torch.equal, other, expected))


def test_cast_to_scales_and_tells_of_faults():
    x, out = torch.tensor([[1.0, -2.0, 2.0**127]]), torch.empty(1, 3, dtype=torch.float16)
    assert not native.cast_to(x, out)
    assert native.cast_to(x, x, 0.5)
    assert x.tolist() == [[0.5, -1.0, 2.0**126]]
    with pytest.raises(ValueError, match="x and out of one shape are needed"):
        native.cast_to(x, out[:, :2])


@pytest.mark.parametrize("call", [
    lambda x: native.rms_norm(x, x[0], 1e-5),
    lambda x: native.add_rms_norm(x, x, x[0], 1e-5),
    lambda x: native.layer_norm(x, x[0], x[0], 1e-5),
    lambda x: native.swiglu(x, x),
    lambda x: native.softmax(x),
    lambda x: native.cast_to(x, x),
    lambda x: native.rotary(x[None, None], x[None, None], torch.zeros(1, 1, dtype=torch.int64), 1e4),
])  # fmt: skip
def test_another_dtype_is_refused_by_name(call):
    with pytest.raises(
        UserError, match=r"the native kernels compute in float32, bfloat16 and float16 and .* is float64"
    ):
        call(torch.ones(4, 4, dtype=torch.float64))


def test_mixed_types_are_refused():
    with pytest.raises(UserError, match="rms_norm: one type is needed, and x is bfloat16, weight float32"):
        native.rms_norm(torch.ones(2, 4, dtype=torch.bfloat16), torch.ones(4), 1e-5)


def test_embedding_refuses_ids_by_name():
    weight = torch.ones(4, 2)
    with pytest.raises(IndexError, match=r"embedding: ids -1\.\.4 of a table of 4 rows"):
        native.embedding(torch.tensor([[0, 4], [-1, 1]]), weight)
    with pytest.raises(ValueError, match="embedding: ids are int64, got int32"):
        native.embedding(torch.tensor([0], dtype=torch.int32), weight)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
def test_embedding_of_any_shape_of_ids(shape):
    ids, weight = torch.zeros(shape, dtype=torch.int64), randn(4, 3)
    y = native.embedding(ids, weight)
    assert y.shape == (*shape, 3)
    (grad,) = torch.autograd.grad(y.sum(), weight)
    assert grad.sum() == 3 * ids.numel()


@pytest.mark.parametrize("grad_dtype", TYPES)
def test_adamw_takes_gradients_of_every_type(grad_dtype):
    settings = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "step": 2}
    results = []
    for backend in ("reference", "torch", "native"):
        buffers = [randn(50, seed=seed, grad=False) for seed in range(3)]
        buffers[2].abs_()
        copy = torch.zeros(50, dtype=torch.bfloat16)
        grad = randn(50, seed=3, grad=False).to(grad_dtype)
        with ops.use_backend(backend):
            ops.adamw_step(buffers[0], grad, *buffers[1:], grad_scale=0.5, model_param=copy, **settings)
        assert torch.equal(copy, buffers[0].bfloat16())
        results.append(buffers)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-6, rtol=1e-6)
