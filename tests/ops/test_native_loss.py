"""The native loss as torch sees it: gradients made in forward, tracing, checkpointing, threads, faults.

Letters: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from pyjpllm import _native, ops
from pyjpllm.ops import native

TARGETS = torch.tensor([0, 8, -1, 3, -1, 3])


def randn(*shape: int, grad: bool = True, seed: int = 0) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return made.requires_grad_(grad)


def loss_and_penalty(hidden, weight, targets, z_loss):
    return native.loss.summed_cross_entropy(hidden, weight, targets, targets >= 0, z_loss)


def formula(hidden, weight, targets, z_loss):
    logits = hidden @ weight.t()
    lse = torch.where(targets >= 0, logits.logsumexp(1), 0)
    return F.cross_entropy(logits, targets, reduction="sum", ignore_index=-1), z_loss * lse.square().sum()


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 40),
    v=st.sampled_from([1, 2, 47, 48, 49, 300]),
    d=st.integers(1, 70),
    z_loss=st.sampled_from([0.0, 1e-2]),
    factors=st.sampled_from([(0.1, 0.1), (0.1, 0.2), (0.0, 0.2)]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_the_formulas(n, v, d, z_loss, factors, seed):
    hidden, weight = randn(n, d, seed=seed), randn(v, d, seed=seed + 1)
    targets = torch.randint(-1, v, (n,), generator=torch.Generator().manual_seed(seed))
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    got = loss_and_penalty(hidden, weight, targets, z_loss)
    want = formula(*wide, targets, z_loss)
    size = 1 + float((wide[0] @ wide[1].t()).detach().abs().sum())
    for ours, exact in zip(got, want, strict=True):
        assert abs(ours.item() - exact.item()) <= 1e-6 * (1 + exact.item() + z_loss * size * 20)
    alike = factors[0] == factors[1]
    got_grads, want_grads = (
        torch.autograd.grad((x + y) * factors[0] if alike else x * factors[0] + y * factors[1], inputs)
        for (x, y), inputs in ((got, (hidden, weight)), (want, wide))
    )
    # A softmax is as wrong, relatively, as its logit is absolutely: FP32's 6e-8 times logits up to 40 in 1e-5.
    for ours, exact in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(ours, exact.float(), atol=2e-5, rtol=1e-5)


def test_the_backends_of_the_contract_agree():
    hidden, weight, targets = randn(6, 5), randn(9, 5), torch.where(TARGETS < 0, -100, TARGETS)
    results = {}
    for name in ("reference", "torch", "native"):
        with ops.use_backend(name):
            result = ops.linear_cross_entropy(hidden, weight, targets, z_loss=0.1)
            results[name] = [*result, *torch.autograd.grad(result.loss + result.z_loss, (hidden, weight))]
    for name in ("torch", "native"):
        torch.testing.assert_close(results[name], results["reference"], atol=1e-5, rtol=1e-5)


def test_a_second_backward_gives_the_same_bits():
    hidden, weight = randn(6, 5), randn(9, 5)
    total = sum(loss_and_penalty(hidden, weight, TARGETS, 0.1)) * 0.3
    first = torch.autograd.grad(total, (hidden, weight), retain_graph=True)
    kept = [x.clone() for x in first]
    second = torch.autograd.grad(total, (hidden, weight))
    for one, other, copy in zip(first, second, kept, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, copy)


def test_second_derivatives_are_refused():
    hidden, weight = randn(6, 5), randn(9, 5)
    loss, _ = loss_and_penalty(hidden, weight, TARGETS, 0.0)
    (slope,) = torch.autograd.grad(loss.square(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="jpllm::scaled: second derivatives are not implemented"):
        slope.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_16_bit_inputs_round_only_the_gradients(dtype, z_loss):
    made = [(0.3 * randn(*shape, grad=False)).to(dtype).requires_grad_() for shape in ((70, 64), (300, 64))]
    targets = torch.randint(-1, 300, (70,), generator=torch.Generator().manual_seed(0))
    wide = [x.detach().double().requires_grad_() for x in made]
    results = []
    for function, inputs in ((loss_and_penalty, made), (formula, wide)):
        loss, penalty = function(*inputs, targets, z_loss)
        results.append((loss, penalty, *torch.autograd.grad((loss + penalty) / 8, inputs)))
    # Where the processor multiplies BF16 by pairs, gradients of logits are rounded before they are multiplied.
    slack = [0.0] * 4
    if dtype == torch.bfloat16 and _native.isa() == "avx512bf16":
        hidden, weight = (x.detach() for x in wide)
        logits = (hidden @ weight.T).requires_grad_()
        (slope,) = torch.autograd.grad(sum(formula(logits, torch.eye(300).double(), targets, z_loss)) / 8, logits)
        slack[2] = torch.finfo(dtype).eps / 2 * (slope.abs() @ weight.abs())
        slack[3] = torch.finfo(dtype).eps / 2 * (slope.abs().T @ hidden.abs())
    types = (torch.float32, torch.float32, dtype, dtype)
    for ours, exact, type_, more in zip(*results, types, slack, strict=True):
        assert ours.dtype == type_
        eps = torch.finfo(type_).eps
        rounding = eps / 2 if type_ != torch.float32 else 1e-5
        if type_ != torch.float32:  # as made in forward, dhidden is rounded before the factor and after it
            rounding = eps
        assert ((ours.double() - exact).abs() <= rounding * exact.abs() + 2e-6 + more).all()


@pytest.mark.parametrize("frozen", [(True, False), (False, True), (True, True)])
def test_only_the_gradients_that_are_wanted_are_made(frozen):
    whole = randn(6, 5), randn(9, 5)
    wanted = torch.autograd.grad(loss_and_penalty(*whole, TARGETS, 0.0)[0], whole)
    inputs = [x.detach().requires_grad_(not froze) for x, froze in zip(whole, frozen, strict=True)]
    loss, _ = loss_and_penalty(*inputs, TARGETS, 0.0)
    assert torch.equal(loss, loss_and_penalty(*whole, TARGETS, 0.0)[0])
    assert loss.requires_grad == (not all(frozen))
    if loss.requires_grad:
        loss.backward()
    for x, froze, right in zip(inputs, frozen, wanted, strict=True):
        assert x.grad is None if froze else torch.equal(x.grad, right)


def test_nothing_counts():
    hidden, weight = randn(6, 5), randn(9, 5)
    loss, penalty = loss_and_penalty(hidden, weight, torch.full((6,), -1), 0.1)
    (loss + penalty).backward()
    assert loss == penalty == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_one_word_has_no_loss_and_no_gradient():
    hidden, weight = randn(6, 5), randn(1, 5)
    loss, _ = loss_and_penalty(hidden, weight, torch.zeros(6, dtype=torch.int64), 0.0)
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"linear_cross_entropy: hidden \[N, D\], .* got \(6, 5\), \(9, 4\), \(6,\)"):
        loss_and_penalty(randn(6, 5), randn(9, 4), TARGETS, 0.0)
    with (
        pytest.raises(IndexError, match="target 9 is neither in a vocabulary of 9 nor -100"),
        ops.use_backend("native"),
    ):
        ops.linear_cross_entropy(randn(1, 5), randn(9, 5), torch.tensor([9]))


OPCHECKS = {
    "summed_cross_entropy": lambda: (randn(6, 5), randn(9, 5), TARGETS, 0.1, True, True),
    "scale_": lambda: (randn(6, 5, grad=False), torch.tensor(0.5)),
    "scaled": lambda: (randn(6, 5, grad=False), torch.tensor(0.5), torch.bfloat16),
}


@pytest.mark.parametrize("name", OPCHECKS)
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.jpllm, name), OPCHECKS[name]())


def total(hidden, weight):
    loss, penalty = loss_and_penalty(hidden * 2, weight, TARGETS, 0.1)
    return (loss + penalty) / 5


def test_torch_compile_traces_the_whole_function():
    inputs = randn(6, 5), randn(9, 5)
    expected = torch.autograd.grad(total(*inputs), inputs)
    found = torch.autograd.grad(torch.compile(total, fullgraph=True, backend="aot_eager")(*inputs), inputs)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_bits(reentrant):
    plain, again = [(randn(6, 5), randn(9, 5)) for _ in range(2)]
    total(*plain).backward()
    checkpoint(total, *again, use_reentrant=reentrant).backward()
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one.grad, other.grad)


def test_meta_tensors_give_shapes():
    hidden, weight = (x.detach().to("meta").requires_grad_() for x in (randn(6, 5), randn(9, 5)))
    loss, penalty = loss_and_penalty(hidden, weight, TARGETS.to("meta"), 0.1)
    (loss + penalty).backward()
    assert (hidden.grad.shape, weight.grad.shape) == (hidden.shape, weight.shape)


def test_same_bits_on_any_number_of_threads():
    threads = torch.get_num_threads()
    hidden, weight = randn(150, 64), randn(5000, 64)
    targets = torch.randint(0, 5000, (150,), generator=torch.Generator().manual_seed(0))

    def bits():
        loss, penalty = loss_and_penalty(hidden, weight, targets, 0.1)
        return [x.detach().numpy().tobytes() for x in (loss, *torch.autograd.grad(loss + penalty, (hidden, weight)))]

    try:
        torch.set_num_threads(1)
        expected = bits()
        for count in (2, 3):
            torch.set_num_threads(count)
            assert bits() == expected
    finally:
        torch.set_num_threads(threads)
