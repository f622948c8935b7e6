"""The transformer against its formulas in FP64: logits, loss, every gradient; and on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from pyjpllm import ops
from pyjpllm.model import Transformer
from pyjpllm.model.remake import remade
from pyjpllm.parallel import TensorParallel
from tests.model import formula
from tests.model.models import VARIANTS, build, config, tokens

EXACT = {"atol": 1e-12, "rtol": 1e-12}


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_every_gradient_equal_the_formula(variant):
    shape = config(variant, num_layers=1 if variant == "llama3 scaling" else 2)
    model = build(shape)
    ids = tokens(1, 6)
    targets = tokens(1, 6, seed=1)
    targets[0, 2] = -100
    result = model.loss(ids, targets, z_loss=0.01)
    (result.loss + result.z_loss).backward()
    grads = {name: param.grad for name, param in model.named_parameters()}

    state = {name: param.detach().clone().requires_grad_() for name, param in model.named_parameters()}
    logits = formula.logits(shape, state, ids[0].tolist())
    valid = targets[0] != -100
    expected = torch.nn.functional.cross_entropy(logits, targets[0], reduction="sum")
    penalty = 0.01 * torch.logsumexp(logits, 1)[valid].square().sum()
    (expected + penalty).backward()

    torch.testing.assert_close(result.loss, expected, **EXACT)
    torch.testing.assert_close(result.z_loss, penalty, **EXACT)
    assert result.count == 5
    assert grads.keys() == state.keys()
    for name, param in state.items():
        torch.testing.assert_close(grads[name], param.grad, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("variant", ["llama", "qwen3 window"])
def test_documents_and_positions_equal_the_formula(variant):
    shape = config(variant)
    model = build(shape)
    ids = tokens(2, 6)
    documents = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [7, 0, 1, 2, 3, 4]])
    hidden = model(ids, positions_BS=positions, document_ids_BS=documents)
    logits = model.logits(hidden).view(2, 6, -1)
    state = dict(model.named_parameters())
    for row in range(2):
        expected = formula.logits(shape, state, ids[row].tolist(), positions[row].tolist(), documents[row].tolist())
        torch.testing.assert_close(logits[row], expected, **EXACT)


def test_packed_documents_are_each_by_itself():
    model = build(config())
    lengths = [4, 1, 5]
    ids = tokens(1, sum(lengths))
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = model(ids, positions_BS=positions, document_ids_BS=documents)
    alone = torch.cat([model(piece) for piece in ids.split(lengths, dim=1)])
    torch.testing.assert_close(packed, alone, **EXACT)


@pytest.mark.parametrize("variant", ["attention bias", "qwen3 window"])
def test_reference_backend_gives_the_same_loss_and_gradients(variant):
    model = build(config(variant))
    results = []
    for backend in ("torch", "reference"):
        with ops.use_backend(backend):
            model.zero_grad()
            loss = model.loss(tokens(), tokens(seed=1)).loss
            loss.backward()
            results.append([loss.detach(), *(param.grad for param in model.parameters())])
    torch.testing.assert_close(*results, **EXACT)


def test_activation_checkpointing_changes_no_bit():
    model = build(config("qwen3 bias"), dtype=torch.float32)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2]] * 2)
    results = []
    for mode in ("none", "cheap", "full"):
        model.activation_checkpointing = mode
        model.zero_grad()
        loss = model.loss(tokens(), tokens(seed=1), document_ids_BS=documents).loss
        loss.backward()
        results.append([loss.detach(), *(param.grad for param in model.parameters())])
    for again in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], again, strict=True))


@pytest.mark.parametrize(("mode", "gone"), [("none", False), ("cheap", True)])
def test_cheap_checkpointing_keeps_no_output_of_norms_and_swiglu(monkeypatch, mode, gone):
    made = []

    def watch(operation):
        def watched(*args):
            output = operation(*args)
            kept = output[1] if isinstance(output, tuple) else output  # of a sum and its norm, the norm
            made.append(StorageWeakRef(kept.untyped_storage()))
            return output

        return watched

    for name in ("swiglu", "rms_norm", "add_rms_norm"):
        monkeypatch.setattr(ops, name, watch(getattr(ops, name)))
    model = build(config())
    x_ND = torch.randn(18, model.config.hidden_size, dtype=next(model.parameters()).dtype, requires_grad=True)
    out_ND = model.blocks["0"](x_ND, torch.arange(9).expand(2, 9), None, None, mode == "cheap")
    assert [ref.expired() for ref in made] == [gone] * 3
    out_ND.sum().backward()
    assert len(made) == (6 if gone else 3)


def test_what_is_remade_is_made_once_for_all_readers_and_again_for_another_backward():
    x, weights = torch.randn(3, 4, requires_grad=True), [torch.randn(4, 5, requires_grad=True) for _ in range(2)]
    calls = []

    def make():
        calls.append(1)
        return torch.tanh(x)

    y = torch.tanh(x)
    with remade(y, make):
        out = sum((y.view(3, 4) @ w).sum() for w in weights)
    expected = torch.autograd.grad(sum((torch.tanh(x) @ w).sum() for w in weights), weights)
    for backward in (1, 2):
        torch.testing.assert_close(torch.autograd.grad(out, weights, retain_graph=True), expected, rtol=0, atol=0)
        assert len(calls) == backward


def test_activation_checkpointing_computes_blocks_again():
    model = build(config())
    model.activation_checkpointing = "full"
    calls = []
    model.blocks["0"].mlp.gate.register_forward_hook(lambda *_: calls.append(1))
    model.loss(tokens(), tokens()).loss.backward()
    assert len(calls) == 2
    with torch.no_grad():
        model(tokens())
    assert len(calls) == 3


@pytest.mark.parametrize("checkpointing", ["none", "cheap", "full"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_step_on_meta(variant, checkpointing):
    """Nothing in the step makes a CPU tensor or reads a value: both are refused on the meta device."""
    model = Transformer(config(variant), dtype=torch.bfloat16, device="meta")
    model.activation_checkpointing = checkpointing
    batch = {name: torch.empty(2, 9, dtype=torch.int64, device="meta") for name in ("x", "y", "at", "documents")}
    result = model.loss(
        batch["x"], batch["y"], positions_BS=batch["at"], document_ids_BS=batch["documents"], z_loss=1e-4
    )
    (result.loss + result.z_loss).backward()
    assert result.loss.dtype == torch.float32
    assert result.count.is_meta
    for param in model.parameters():
        assert param.grad is not None
        assert param.grad.is_meta
        flat = torch.empty(param.numel(), device="meta")
        ops.adamw_step(
            flat, param.grad.flatten().float(), flat.clone(), flat.clone(),
            lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, step=1,
            model_param=param.data.view(-1),
        )  # fmt: skip


def test_bf16_is_near_fp64():
    shape = config("qwen3")
    exact, rounded = build(shape), build(shape, dtype=torch.bfloat16)
    one, other = exact.loss(tokens(), tokens(seed=1)), rounded.loss(tokens(), tokens(seed=1))
    assert other.loss.dtype == torch.float32
    assert abs(one.loss.item() - other.loss.item()) < 0.02 * one.loss.item()


def test_tied_head_has_no_weight_of_its_own():
    names = {name for name, _ in build(config("tied")).named_parameters()}
    assert "head.weight" not in names
    assert "head.weight" in {name for name, _ in build(config()).named_parameters()}


def test_parameter_names_are_the_contract():
    names = {name for name, _ in build(config("qwen3 bias", num_layers=1, mlp_bias=True)).named_parameters()}
    attention = [f"attention.{part}.{kind}" for part in "qkvo" for kind in ("weight", "bias")]
    mlp = [f"mlp.{part}.{kind}" for part in ("gate", "up", "down") for kind in ("weight", "bias")]
    norms = ["attention.q_norm.weight", "attention.k_norm.weight", "attention_norm.weight", "mlp_norm.weight"]
    block = {f"blocks.0.{name}" for name in attention + mlp + norms}
    assert names == block | {"embedding.weight", "norm.weight", "head.weight"}


def test_a_vocabulary_must_be_set():
    with pytest.raises(ValueError, match="vocab_size is 0"):
        Transformer(config(vocab_size=0))


def test_logits_under_sequence_parallelism_need_the_number_of_tokens():
    model = Transformer(config(), tp=TensorParallel(None, 0, 2, True), device="meta")
    with pytest.raises(ValueError, match="num_tokens"):
        model.logits(torch.empty(3, 24, device="meta"))
