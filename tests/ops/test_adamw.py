"""The optimizer step against torch.optim.AdamW, and by its own rules."""

from __future__ import annotations

import pytest
import torch

from pyjpllm import ops
from pyjpllm.ops import torch_backend

SETTINGS = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


@pytest.fixture(params=["reference", "torch"])
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def buffers(size, dtype=torch.float64):
    torch.manual_seed(3)
    return torch.randn(size, dtype=dtype), torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=dtype)


@pytest.mark.parametrize("grad_scale", [1.0, 0.125])
def test_ten_steps_equal_torch(backend, grad_scale, monkeypatch):
    monkeypatch.setattr(torch_backend, "PIECE", 7)
    param, exp_avg, exp_avg_sq = buffers(30)
    theirs = torch.nn.Parameter(param.clone())
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(1, 11):
        grad = torch.randn(30, dtype=torch.float64)
        before = grad.clone()
        ops.adamw_step(param, grad, exp_avg, exp_avg_sq, step=step, grad_scale=grad_scale, **SETTINGS)
        assert torch.equal(grad, before)
        theirs.grad = grad * grad_scale
        optimizer.step()
    torch.testing.assert_close(param, theirs.detach(), atol=1e-14, rtol=1e-13)
    torch.testing.assert_close(exp_avg, optimizer.state[theirs]["exp_avg"], atol=1e-15, rtol=1e-13)
    torch.testing.assert_close(exp_avg_sq, optimizer.state[theirs]["exp_avg_sq"], atol=1e-15, rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_low_precision_copy_is_the_rounded_weight(backend, dtype):
    param, exp_avg, exp_avg_sq = buffers(50, torch.float32)
    copy = torch.zeros(50, dtype=dtype)
    ops.adamw_step(param, torch.randn(50), exp_avg, exp_avg_sq, step=1, model_param=copy, **SETTINGS)
    assert torch.equal(copy, param.to(dtype))


def test_pieces_do_not_change_a_bit(monkeypatch):
    results = []
    for size in (64, 1 << 20):
        monkeypatch.setattr(torch_backend, "PIECE", size)
        param, exp_avg, exp_avg_sq = buffers(100, torch.float32)
        grad = torch.linspace(-1, 1, 100)
        for step in (1, 2, 3):
            ops.adamw_step(param, grad, exp_avg, exp_avg_sq, step=step, grad_scale=0.3, **SETTINGS)
        results.append((param, exp_avg, exp_avg_sq))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_no_gradient_only_decays(backend):
    param, exp_avg, exp_avg_sq = buffers(4)
    before = param.clone()
    ops.adamw_step(param, torch.zeros_like(param), exp_avg, exp_avg_sq, step=1, **SETTINGS)
    torch.testing.assert_close(param, before * (1 - 1e-2 * 0.1), atol=0, rtol=1e-15)


def test_runs_on_meta():
    param, grad, exp_avg, exp_avg_sq = (torch.empty(10, device="meta") for _ in range(4))
    copy = torch.empty(10, dtype=torch.bfloat16, device="meta")
    ops.adamw_step(param, grad, exp_avg, exp_avg_sq, step=1, model_param=copy, **SETTINGS)


def test_step_counts_from_one(backend):
    param, exp_avg, exp_avg_sq = buffers(4)
    with pytest.raises(ValueError, match="counts from 1, got 0"):
        ops.adamw_step(param, param, exp_avg, exp_avg_sq, step=0, **SETTINGS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sum_of_squares_is_fp64(backend, dtype, monkeypatch):
    monkeypatch.setattr(torch_backend, "PIECE", 7)
    x = torch.randn(4, 5, dtype=torch.float64).to(dtype)
    total = ops.sum_of_squares(x.requires_grad_())
    assert total.dtype == torch.float64
    assert not total.requires_grad
    assert float(total) == pytest.approx(float(x.detach().double().square().sum()), rel=1e-14)
    assert ops.sum_of_squares(torch.full((2,), 1e38)) == pytest.approx(2e76)
    assert ops.sum_of_squares(torch.empty(0)) == 0
