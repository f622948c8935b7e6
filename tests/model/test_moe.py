"""Mixtures of experts against their formulas in FP64: every gradient with the routers' losses, loads, biases."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm import ops
from pyjpllm.distributed import World, make_mesh
from pyjpllm.errors import UserError
from pyjpllm.model import Transformer, active_parameters, count_parameters, flops_per_token, generate
from pyjpllm.training.experts import balance, expert_biases, load_expert_biases, weigh_losses
from tests.model import formula
from tests.model.models import MIXTURES, OWN_MIXTURES, build, config, tokens

EXACT = {"atol": 1e-12, "rtol": 1e-12}
EVERY = (*MIXTURES, *OWN_MIXTURES)
ALONE = make_mesh(World(0, 1, 0, 1, "mpi4py"))


def with_biases(model: Transformer) -> dict[str, torch.Tensor]:
    """Biases that turn some choices; as the formula takes them."""
    layers = model.moe_layers()
    generator = torch.Generator().manual_seed(9)
    for moe in layers.values():
        if moe.moe.balance_bias_rate:
            moe.bias_E.copy_(torch.randn(moe.bias_E.shape, generator=generator).mul(0.3))
    return {f"blocks.{layer}.mlp.bias_E": moe.bias_E.double() for layer, moe in layers.items()}


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("variant", EVERY)
def test_loss_and_every_gradient_equal_the_formula(variant: str, backend: str) -> None:
    shape = config(variant)
    model = build(shape)
    biases = with_biases(model)
    ids, targets = tokens(2, 5), tokens(2, 5, seed=1)
    weigh_losses(model, 0.5)
    with ops.use_backend(backend):
        result = model.loss(ids, targets)
        result.loss.backward()
    grads = {name: param.grad for name, param in model.named_parameters()}

    state = {name: param.detach().clone().requires_grad_() for name, param in model.named_parameters()}
    found = [formula.logits_and_losses(shape, {**state, **biases}, row.tolist()) for row in ids]
    expected = torch.nn.functional.cross_entropy(torch.cat([f[0] for f in found]), targets.flatten(), reduction="sum")
    of_routers = sum(sum(losses) for _, losses in found)
    (expected + 0.5 * of_routers).backward()

    torch.testing.assert_close(result.loss, expected, **EXACT)
    assert grads.keys() == state.keys()
    for name, param in state.items():
        torch.testing.assert_close(grads[name], param.grad, **EXACT, msg=lambda text, name=name: f"{name}: {text}")
    loads = balance(model, ALONE, sequences=2)
    assert loads.balance_loss + loads.router_z_loss == pytest.approx(float(of_routers.detach()) / 2, abs=1e-12)


@pytest.mark.parametrize("variant", EVERY)
def test_activation_checkpointing_changes_no_bit_and_no_record(variant: str) -> None:
    model = build(config(variant), dtype=torch.float32)
    results = []
    for mode in ("none", "cheap", "full"):
        model.activation_checkpointing = mode
        model.zero_grad()
        loss = model.loss(tokens(), tokens(seed=1)).loss
        loss.backward()
        records = [torch.cat([moe.loads_E, moe.losses_2]) for moe in model.moe_layers().values()]
        results.append([loss.detach(), *(param.grad for param in model.parameters()), *records])
        balance(model, ALONE, sequences=2, move=False)
    for again in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], again, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_token_is_dropped_whatever_the_routing(data: st.DataObject) -> None:
    """With experts that all are the identity (and a linear map, to be exact), every token comes back as itself."""
    experts = data.draw(st.integers(1, 6))
    k = data.draw(st.integers(1, experts))
    sizes = {"num_experts": experts, "experts_per_token": k, "intermediate_size": 24}
    shape = config(
        "one expert", num_layers=1, moe={**sizes, "router": data.draw(st.sampled_from(("softmax", "sigmoid")))}
    )
    moe = build(shape, noise=False).moe_layers()[0]
    x_ND = torch.randint(-8, 9, (6, 24), generator=torch.Generator().manual_seed(1)).double() / 8  # sums are exact
    with torch.no_grad():
        # Few values: many ties, and experts that none or all of the tokens choose.
        values = data.draw(st.lists(st.sampled_from((-2.0, 0.0, 0.0, 1.0)), min_size=experts, max_size=experts))
        moe.router.weight.copy_(torch.tensor(values, dtype=torch.float64)[:, None].expand(-1, 24))
        moe.experts.gate.weight.copy_(torch.eye(24, dtype=torch.float64).expand(experts, 24, 24) * 40)
        moe.experts.up.weight.copy_(torch.eye(24, dtype=torch.float64).expand(experts, 24, 24))
        moe.experts.down.weight.copy_(torch.eye(24, dtype=torch.float64).expand(experts, 24, 24) / 40)
        expected = torch.nn.functional.silu(40 * x_ND) * x_ND / 40
    y_ND = moe(x_ND.requires_grad_(), 2)
    torch.testing.assert_close(y_ND, expected, **EXACT)
    y_ND.sum().backward()
    assert moe.loads_E.sum() == 6 * k
    signs = x_ND.sum(1, keepdim=True).detach() * torch.tensor(values)
    chosen = signs.sort(dim=1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(moe.loads_E, torch.bincount(chosen.flatten(), minlength=experts).double())


def test_biases_even_the_loads_out() -> None:
    """They move by the sign of the error each step, and turn the choice towards experts that had too little."""
    shape = config("sigmoid, shared", num_layers=1)
    model = build(shape)
    worst = []
    for _ in range(20):
        model.loss(tokens(4, 15), tokens(4, 15, seed=1)).loss.backward()
        before, loads_E = model.moe_layers()[0].bias_E.clone(), model.moe_layers()[0].loads_E.clone()
        worst.append(balance(model, ALONE, sequences=4).load_max)
        assert worst[-1] == pytest.approx(float(loads_E.max() / loads_E.mean()))
        moved = model.moe_layers()[0].bias_E - before
        torch.testing.assert_close(moved, 0.1 * (20.0 - loads_E).sign().float())
        assert not model.moe_layers()[0].loads_E.any()
    assert min(worst[10:]) < worst[0] - 0.3
    kept = expert_biases(model, ALONE)
    again = build(shape)
    load_expert_biases(again, kept)
    assert torch.equal(again.moe_layers()[0].bias_E, model.moe_layers()[0].bias_E)
    with pytest.raises(UserError, match="has not the 6 expert biases of layer 0"):
        load_expert_biases(again, {"0": [1.0]})


def test_a_step_that_is_not_taken_moves_no_bias() -> None:
    model = build(config("sigmoid, shared"))
    model.loss(tokens(), tokens(seed=1)).loss.backward()
    balance(model, ALONE, sequences=2, move=False)
    assert not any(moe.bias_E.any() for moe in model.moe_layers().values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_router_decides_in_fp32(dtype: torch.dtype) -> None:
    """Its logits are FP32 sums of the 16-bit operands, not rounded to 16 bits."""
    model = build(config("mixtral"), dtype=dtype)
    router = model.moe_layers()[0].router
    x_ND = torch.randn(9, 24).to(dtype).requires_grad_()
    logits_NE = router(x_ND)
    assert logits_NE.dtype == torch.float32
    torch.testing.assert_close(logits_NE, x_ND.float() @ router.weight.float().T)
    logits_NE.sum().backward()
    assert x_ND.grad.dtype == router.weight.grad.dtype == dtype


@pytest.mark.parametrize("variant", EVERY)
def test_generation_equals_reading_all_at_once(variant: str) -> None:
    model = build(config(variant))
    with_biases(model)
    prompt = tokens(1, 5)[0].tolist()
    new = generate(model, prompt, max_new_tokens=6, temperature=0)
    with torch.no_grad():
        ids = torch.tensor([prompt + new])
        logits_SV = model.logits(model(ids))
    assert logits_SV[4:-1].argmax(1).tolist() == new


@pytest.mark.parametrize("variant", EVERY)
def test_parameters_are_counted(variant: str) -> None:
    shape = config(variant)
    model = Transformer(shape, device="meta")
    total = sum(param.numel() for param in model.parameters())
    assert count_parameters(shape) == total
    moe = shape.moe
    unused = sum(
        param.numel() // moe.num_experts * (moe.num_experts - moe.experts_per_token)
        for name, param in model.named_parameters()
        if ".experts." in name
    )
    assert active_parameters(shape) == total - unused
    dense = shape.model_copy(update={"moe": None})
    assert flops_per_token(shape, 8) - flops_per_token(dense, 8) == 6 * (total - unused - count_parameters(dense))


def test_layers_with_experts() -> None:
    moe = config("mixtral").moe
    assert [moe.is_sparse(layer) for layer in range(3)] == [True] * 3
    later = moe.model_copy(update={"first_dense_layers": 2, "layer_step": 2})
    assert [later.is_sparse(layer) for layer in range(6)] == [False, False, False, True, False, True]


def test_native_kernels_give_the_same() -> None:
    if "native" not in ops.available_backends():
        pytest.skip("the kernels are not built here")
    results = []
    for backend in ("torch", "native"):
        model = build(config("qwen2 moe"), dtype=torch.float32)
        with ops.use_backend(backend):
            loss = model.loss(tokens(), tokens(seed=1)).loss
            loss.backward()
        results.append([loss.detach(), *(param.grad for param in model.parameters())])
    for one, other in pairwise(results):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
