"""The loss whose gradients forward makes, on `torch` and `native`: the formula's, whatever the chunks and factors."""

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


def formula(hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.t()
    penalty = z_loss * torch.where(targets >= 0, logits.logsumexp(1), 0).square().sum()
    return F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100), penalty


@given(
    tokens=st.integers(1, 20),
    vocab=st.integers(1, 9),
    chunk=st.integers(1, 400),
    z_loss=st.sampled_from([0.0, 0.3]),
    factors=st.sampled_from([(0.37, 0.37), (0.37, -2.0), (0.37, 0.0), (0.0, 1.3)]),
    seed=st.integers(0, 999),
)
def test_loss_and_gradients_are_the_formulas_whatever_the_chunks(
    tokens: int, vocab: int, chunk: int, z_loss: float, factors: tuple[float, float], seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, ops.use_backend("torch"):
        patch.setattr(torch_loss, "CHUNK_BYTES", chunk)
        hidden, weight, targets = problem(tokens, vocab, seed)
        result = ops.linear_cross_entropy(hidden, weight, targets, z_loss=z_loss)
        expected, penalty = formula(hidden, weight, targets, z_loss)
        found, right = (
            torch.autograd.grad(
                (x + y) * factors[0] if factors[0] == factors[1] else x * factors[0] + y * factors[1], (hidden, weight)
            )
            for x, y in (result[:2], (expected, penalty))
        )
    torch.testing.assert_close(result.loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.z_loss, penalty, rtol=1e-12, atol=1e-12)
    assert result.count == (targets >= 0).sum()
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_z_loss_costs_no_product_where_both_sums_count_alike(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the gradients were made again")

    module = torch_loss if backend == "torch" else pytest.importorskip("pyjpllm.ops.native.loss")
    with ops.use_backend(backend):
        hidden, weight, targets = problem(9, 7, 3, torch.float32)
        result = ops.linear_cross_entropy(hidden, weight, targets, z_loss=0.1)
        expected = torch.autograd.grad(sum(formula(hidden, weight, targets, 0.1)) / 9 * 3, (hidden, weight))
        with monkeypatch.context() as patch:
            patch.setattr(module, "_unequal_gradients", never)
            found = torch.autograd.grad(
                (result.loss + result.z_loss) / torch.tensor(9.0).double() * 3, (hidden, weight)
            )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


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
