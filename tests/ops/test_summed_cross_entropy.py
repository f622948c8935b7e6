"""The loss without z-loss, whose gradients `torch`'s forward makes: the same as the formula and as the other way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyjpllm import ops
from pyjpllm.ops import torch_loss


def problem(tokens: int, vocab: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weights, and targets of which some are not counted."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 6, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocab, 6, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    return hidden, weight, targets.masked_fill(torch.rand(tokens, generator=generator) < 0.3, -100)


@given(tokens=st.integers(1, 20), vocab=st.integers(1, 9), chunk=st.integers(1, 400), seed=st.integers(0, 999))
def test_loss_and_gradients_are_the_formulas_whatever_the_chunks(
    tokens: int, vocab: int, chunk: int, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, ops.use_backend("torch"):
        patch.setattr(torch_loss, "CHUNK_BYTES", chunk)
        hidden, weight, targets = problem(tokens, vocab, seed)
        result = ops.linear_cross_entropy(hidden, weight, targets)
        found = torch.autograd.grad(result.loss * 0.37, (hidden, weight))
        expected = F.cross_entropy(hidden @ weight.t(), targets, reduction="sum", ignore_index=-100)
        right = torch.autograd.grad(expected * 0.37, (hidden, weight))
    torch.testing.assert_close(result.loss, expected, rtol=1e-12, atol=1e-12)
    assert result.z_loss == 0
    assert result.count == (targets >= 0).sum()
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_it_equals_the_way_that_takes_a_z_loss() -> None:
    with ops.use_backend("torch"):
        hidden, weight, targets = problem(9, 7, 3)
        direct = ops.linear_cross_entropy(hidden, weight, targets)
        other = ops.linear_cross_entropy(hidden, weight, targets, z_loss=1e-30)
        for a, b in zip(
            torch.autograd.grad(direct.loss, (hidden, weight)),
            torch.autograd.grad(other.loss, (hidden, weight)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_pass_gradcheck_and_a_second_backward_gives_the_same() -> None:
    with ops.use_backend("torch"):
        hidden, weight, targets = problem(5, 4, 11)
        assert torch.autograd.gradcheck(lambda h, w: ops.linear_cross_entropy(h, w, targets).loss, (hidden, weight))
        loss = ops.linear_cross_entropy(hidden, weight, targets).loss
        first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
        second = torch.autograd.grad(loss, (hidden, weight))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_only_the_gradients_that_are_wanted_are_made(frozen: str) -> None:
    with ops.use_backend("torch"):
        hidden, weight, targets = problem(5, 4, 2)
        whole = ops.linear_cross_entropy(hidden, weight, targets)
        wanted = torch.autograd.grad(whole.loss, (hidden, weight))
        if frozen in ("hidden", "both"):
            hidden = hidden.detach()
        if frozen in ("weight", "both"):
            weight = weight.detach()
        part = ops.linear_cross_entropy(hidden, weight, targets)
        assert torch.equal(part.loss, whole.loss)
        assert part.loss.requires_grad == (frozen != "both")
        if frozen != "both":
            part.loss.backward()
            free, right = (weight, wanted[1]) if frozen == "hidden" else (hidden, wanted[0])
            torch.testing.assert_close(free.grad, right, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_sum_in_fp32(dtype: torch.dtype) -> None:
    with ops.use_backend("torch"):
        hidden, weight, targets = problem(400, 8, 5, dtype)
        loss = ops.linear_cross_entropy(hidden, weight, targets).loss
        assert loss.dtype == torch.float32
        (found,) = torch.autograd.grad(loss / 400, weight)
        exact = F.cross_entropy(hidden.double() @ weight.double().t(), targets, reduction="sum", ignore_index=-100)
        (right,) = torch.autograd.grad(exact / 400, weight)
    assert found.dtype == dtype
    assert (found.double() - right.double()).norm() / right.double().norm() < 2e-2


def test_it_runs_on_meta_and_the_other_backends_do_without() -> None:
    with ops.use_backend("torch"):
        hidden = torch.empty(4, 6, device="meta", requires_grad=True)
        weight = torch.empty(5, 6, device="meta", requires_grad=True)
        ops.linear_cross_entropy(hidden, weight, torch.empty(4, dtype=torch.int64, device="meta")).loss.backward()
        assert weight.grad is not None
        assert weight.grad.is_meta
    hidden, weight, targets = problem(5, 4, 8)
    with ops.use_backend("torch"):
        expected = ops.linear_cross_entropy(hidden, weight, targets).loss
    with ops.use_backend("reference"):
        torch.testing.assert_close(ops.linear_cross_entropy(hidden, weight, targets).loss, expected)
