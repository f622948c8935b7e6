"""The torch backend on a GPU: the same values as on the CPU."""

from __future__ import annotations

import pytest
import torch

from pyjpllm import ops
from tests.ops.cases import CASES, run

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_gives_the_values_of_the_reference(name, dtype):
    with ops.use_backend("reference"):
        expected = run(CASES[name], dtype)
    actual = run(CASES[name], dtype, "cuda")
    tolerance = 1e-12 if dtype == torch.float64 else 16 * torch.finfo(dtype).eps
    for one, other in zip((*actual[0], *actual[1]), (*expected[0], *expected[1]), strict=True):
        assert one.is_cuda
        torch.testing.assert_close(one.cpu(), other, atol=tolerance, rtol=tolerance)


def test_adamw_on_a_gpu_equals_the_reference():
    results = []
    for backend, device in (("reference", "cpu"), ("torch", "cuda")):
        torch.manual_seed(0)
        param, grad, exp_avg = (torch.randn(1000, dtype=torch.float64) for _ in range(3))
        buffers = [tensor.to(device) for tensor in (param, grad, exp_avg, exp_avg.square())]
        copy = torch.zeros(1000, dtype=torch.bfloat16, device=device)
        with ops.use_backend(backend):
            ops.adamw_step(
                *buffers, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, step=3, grad_scale=0.5,
                model_param=copy,
            )  # fmt: skip
        results.append([tensor.cpu() for tensor in (*buffers, copy)])
    torch.testing.assert_close(*results, atol=1e-13, rtol=1e-12)
