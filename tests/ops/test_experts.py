"""Mixture of experts on every backend: which experts, in which order, and the whole layer against one by hand.

Letters: N tokens, E experts, k experts of a token, M = N k rows, D width, F inner width.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyjpllm import ops
from tests.ops.cases import CHOSEN

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["reference", "torch", "native"])
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def test_ties_go_to_the_lower_number(backend):
    # The scores of the last row round to 0 and 1; the logits do not.
    logits = torch.tensor([[1.0, 3.0, 3.0, 1.0, 3.0], [0.0] * 5, [-200.0, -199.0, 0.0, -300.0, -199.0]])
    experts, weights = ops.route(logits, 4)
    assert experts.tolist() == [[1, 2, 4, 0], [0, 1, 2, 3], [2, 1, 4, 0]]
    torch.testing.assert_close(weights[1], torch.full((4,), 0.25))


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_the_bias_chooses_and_does_not_weigh(backend, scoring):
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    experts, weights = ops.route(logits, 2, scoring=scoring, normalize=False, bias_E=torch.tensor([-9.0, 0.0, 9.0]))
    scores = logits.softmax(-1) if scoring == "softmax" else logits.sigmoid()
    assert experts.tolist() == [[2, 1]]
    torch.testing.assert_close(weights, scores[:, [2, 1]])


def test_normalized_weights_add_up_to_one(backend):
    logits = 30 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    for scoring in ("softmax", "sigmoid"):
        _, weights = ops.route(logits, 3, scoring=scoring)
        torch.testing.assert_close(weights.sum(-1), torch.ones(50))


def test_all_experts_are_an_order_of_them(backend):
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    experts, weights = ops.route(logits, 7)
    assert torch.equal(experts.sort(-1).values, torch.arange(7).expand(20, 7))
    assert torch.equal(weights, weights.sort(-1, descending=True).values)


def test_the_order_is_stable(backend):
    order = ops.sort_by_expert(CHOSEN, 5)
    assert order.sizes_E.tolist() == [2, 0, 4, 2, 0]
    assert order.token_M.tolist() == [0, 2, 0, 1, 2, 3, 1, 3]
    assert order.position_Nk.tolist() == [[2, 0], [6, 3], [1, 4], [5, 7]]


@quick
@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 9))
def test_the_order_is_a_permutation_by_expert(backend, n, k, e):
    experts = torch.randint(e, (n, k), generator=torch.Generator().manual_seed(n))
    order = ops.sort_by_expert(experts, e)
    assert torch.equal(order.sizes_E, torch.bincount(experts.flatten(), minlength=e))
    assert torch.equal(order.position_Nk.flatten().sort().values, torch.arange(n * k))
    sorted_M = torch.empty(n * k, dtype=torch.int64)
    sorted_M[order.position_Nk.flatten()] = experts.flatten()
    assert torch.equal(sorted_M, experts.flatten().sort().values)
    assert torch.equal(order.token_M[order.position_Nk], torch.arange(n)[:, None].expand(n, k))


def layer(x_ND: Tensor, router_ED: Tensor, up_EFD: Tensor, down_EDF: Tensor, k: int) -> Tensor:
    experts_Nk, weights_Nk = ops.route(ops.linear(x_ND, router_ED), k)
    order = ops.sort_by_expert(experts_Nk, router_ED.shape[0])
    hidden_MF = ops.grouped_linear(ops.dispatch(x_ND, order), up_EFD, order.sizes_E)
    return ops.combine(ops.grouped_linear(ops.swiglu(hidden_MF, hidden_MF), down_EDF, order.sizes_E), order, weights_Nk)


def by_hand(x_ND: Tensor, router_ED: Tensor, up_EFD: Tensor, down_EDF: Tensor, k: int) -> Tensor:
    logits_NE = x_ND @ router_ED.t()
    kept_NE = torch.full_like(logits_NE, -torch.inf).scatter(-1, logits_NE.topk(k).indices, 0.0)
    weights_NE = (logits_NE + kept_NE).softmax(-1)
    hidden_NEF = torch.einsum("nd,efd->nef", x_ND, up_EFD)
    y_NED = torch.einsum("nef,edf->ned", torch.nn.functional.silu(hidden_NEF) * hidden_NEF, down_EDF)
    return torch.einsum("ne,ned->nd", weights_NE, y_NED)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_layer_of_experts_equals_one_by_hand(backend, k):
    generator = torch.Generator().manual_seed(1)
    shapes = (30, 8), (5, 8), (5, 12, 8), (5, 8, 12)
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    grad = torch.randn(30, 8, generator=generator)
    got, want = layer(*inputs, k), by_hand(*wide, k)
    torch.testing.assert_close(got, want.float(), atol=2e-5, rtol=1e-5)
    grads = torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, wide, grad.double())
    for ours, exact in zip(*grads, strict=True):
        torch.testing.assert_close(ours, exact.float(), atol=2e-4, rtol=1e-4)


def test_what_does_not_fit_is_refused(backend):
    logits, order = torch.randn(4, 3), ops.sort_by_expert(CHOSEN, 4)
    for call, message in (
        (lambda: ops.route(logits, 4), r"route: 1 to E experts of logits \[N, E\] are needed, got 4 of \(4, 3\)"),
        (lambda: ops.route(logits, 0), "got 0 of"),
        (lambda: ops.route(logits, 1, scoring="softmx"), "scoring is 'softmax' or 'sigmoid', got 'softmx'"),
        (lambda: ops.route(logits, 1, bias_E=torch.ones(4)), r"bias \[3\] is needed, got \(4,\)"),
        (lambda: ops.sort_by_expert(logits, 4), r"sort_by_expert: int64 \[N, k\] is needed, got torch.float32"),
        (lambda: ops.dispatch(torch.ones(3, 2), order), r"dispatch: x \[4, D\] is needed for this order, got \(3, 2\)"),
        (lambda: ops.combine(torch.ones(8, 2), order, torch.ones(4, 3)), r"combine: x \[8, D\] and weights \(4, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for wrong in (-1, 4):
        with pytest.raises(IndexError, match="sort_by_expert"):
            ops.sort_by_expert(torch.tensor([[0, wrong]]), 4)
