"""The choice of how products are summed: layers, experts and the loss take it, FP32 tensors do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pyjpllm import ops
from pyjpllm.errors import UserError
from tests.kernels.halves import chunked_sums, same
from tests.kernels.integers import integer_sums


def layer(dtype: torch.dtype) -> list[torch.Tensor]:
    """A layer's output and gradients of input and weight, and what they are products of."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 20, 70, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(33, 70, generator=generator).to(dtype).requires_grad_()
    dy = torch.randn(2, 20, 33, generator=generator).to(dtype)
    y = ops.linear(x, weight)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), dy), x.detach(), weight.detach(), dy]


@pytest.mark.parametrize("chunk", [16, 64])
def test_forward_and_both_gradients_are_summed_in_chunks(chunk: int) -> None:
    with ops.use_backend("native"), ops.use_math("fp16-chunk", chunk):
        made = layer(torch.float16)
    y, dx, dweight, x, weight, dy = (t.reshape(-1, t.shape[-1]).numpy() for t in made)
    same(y, chunked_sums(x, weight.T, chunk).astype(np.float16))
    same(dx, chunked_sums(dy, weight, chunk).astype(np.float16))
    same(dweight, chunked_sums(dy.T, x, chunk).astype(np.float16))


def experts(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(30, 70, generator=generator).to(dtype).requires_grad_()
    weights = torch.randn(3, 33, 70, generator=generator).to(dtype).requires_grad_()
    dy = torch.randn(30, 33, generator=generator).to(dtype)
    y = ops.grouped_linear(x, weights, torch.tensor([11, 0, 19]))
    return [y.detach(), *torch.autograd.grad(y, (x, weights), dy), x.detach(), weights.detach(), dy]


def test_so_are_those_of_experts() -> None:
    with ops.use_backend("native"), ops.use_math("fp16-chunk", 16):
        made = experts(torch.float16)
    y, dx, dweights, x, weights, dy = (t.numpy() for t in made)
    for expert, rows in enumerate((slice(0, 11), slice(11, 11), slice(11, 30))):
        same(y[rows], chunked_sums(x[rows], weights[expert].T, 16).astype(np.float16))
        same(dx[rows], chunked_sums(dy[rows], weights[expert], 16).astype(np.float16))
        same(dweights[expert], chunked_sums(dy[rows].T, x[rows], 16).astype(np.float16))


def head(dtype: torch.dtype) -> list[torch.Tensor]:
    """Losses and gradients of both forms of the loss."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(40, 70, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(200, 70, generator=generator).to(dtype).requires_grad_()
    targets = torch.arange(40) * 5
    loss = ops.linear_cross_entropy(hidden, weight, targets).loss
    lse, logit = ops.linear_logsumexp(hidden, weight, targets)
    made = [loss, lse, logit]
    grads = [g for f in (loss, (lse - logit).sum()) for g in torch.autograd.grad(f, (hidden, weight))]
    return [t.detach() for t in [*made, *grads, hidden, weight]]


@pytest.mark.parametrize("chunk", [16, 64])
def test_so_are_those_of_the_loss(chunk: int) -> None:
    """tests/kernels/test_loss_chunks.py has the bits of the gradients."""
    with ops.use_backend("native"):
        exact = head(torch.float16)
        with ops.use_math("fp16-chunk", chunk):
            made = head(torch.float16)
    hidden, weight = (t.numpy() for t in made[-2:])
    same(made[2].numpy(), chunked_sums(hidden, weight.T, chunk)[range(40), 5 * np.arange(40)])
    assert made[0] == pytest.approx(exact[0].item(), rel=1e-3)
    for ours, right in zip(made[3:7], exact[3:7], strict=True):
        assert not torch.equal(ours, right)
        assert (ours - right).float().norm() < 0.02 * right.float().norm()


@pytest.mark.parametrize("compute", [layer, experts, head])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_are_summed_in_fp32_all_the_same(
    compute: Callable[[torch.dtype], list[torch.Tensor]], dtype: torch.dtype
) -> None:
    with ops.use_backend("native"):
        expected = compute(dtype)
        with ops.use_math("fp16-chunk"):
            made = compute(dtype)
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layers_and_experts_multiply_integers_and_the_loss_does_not(dtype: torch.dtype) -> None:
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(integer_sums(a.float().numpy(), b.float().numpy())).to(dtype)

    with ops.use_backend("native"):
        expected = head(dtype)
        with ops.use_math("int16"):
            made, grouped, losses = layer(dtype), experts(dtype), head(dtype)
    y, dx, dweight, x, weight, dy = (t.reshape(-1, t.shape[-1]) for t in made)
    for got, a, b in ((y, x, weight.T), (dx, dy, weight), (dweight, dy.T, x)):
        assert torch.equal(got, product(a, b))
    y, dx, dweight, x, weight, dy = grouped
    for expert, rows in enumerate((slice(0, 11), slice(11, 11), slice(11, 30))):
        assert torch.equal(y[rows], product(x[rows], weight[expert].T))
        assert torch.equal(dx[rows], product(dy[rows], weight[expert]))
        assert torch.equal(dweight[expert], product(dy[rows].T, x[rows]))
    assert all(torch.equal(a, b) for a, b in zip(losses, expected, strict=True))


def test_the_choice_ends_with_its_block() -> None:
    with ops.use_math("fp16-chunk", 128):
        assert ops.current_math() == ("fp16-chunk", 128)
    assert ops.current_math() == ("exact", 32)


def test_unknown_names_and_chunks_are_told() -> None:
    with pytest.raises(UserError, match=r"unknown math 'fp16_chunk'.*'fp16-chunk'"):
        ops.use_math("fp16_chunk")
    with pytest.raises(UserError, match="must be 16, 32, 64 or 128, is 48; nearest: 32"):
        ops.use_math("fp16-chunk", 48)
    with pytest.raises(UserError, match="math int16 has no chunk; leave 64 out"):
        ops.use_math("int16", 64)
    assert ops.current_math() == ("exact", 32)
