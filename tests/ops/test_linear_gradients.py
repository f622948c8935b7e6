"""`linear_grad_input` and `linear_grad_weight`: on every backend what autograd makes of `linear`."""

from __future__ import annotations

import pytest
import torch

from pyjpllm import ops
from pyjpllm.ops.types import DTYPES

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("torch", "fp64"), ("reference", "fp64"), ("native", "fp32"), ("torch", "bf16"), ("native", "bf16")],
)
@pytest.mark.parametrize("rows", [(7,), (2, 3), (0,)])
def test_they_are_the_gradients_of_linear(backend: str, dtype: str, rows: tuple[int, ...]) -> None:
    if backend not in ops.available_backends():
        pytest.skip(f"{backend} is not here")
    generator = torch.Generator().manual_seed(1)
    x, w, dy = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(DTYPES[dtype])
        for shape in ((*rows, 5), (4, 5), (*rows, 4))
    )
    wide_x, wide_w = x.double().requires_grad_(), w.double().requires_grad_()
    expected = torch.autograd.grad(torch.nn.functional.linear(wide_x, wide_w), [wide_x, wide_w], dy.double())
    with ops.use_backend(backend):
        found = [ops.linear_grad_input(dy, w.requires_grad_()), ops.linear_grad_weight(dy, x.requires_grad_())]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == DTYPES[dtype]
        assert not ours.requires_grad
        torch.testing.assert_close(ours.double(), theirs, rtol=TOLERANCES[ours.dtype], atol=TOLERANCES[ours.dtype])


def test_native_names_what_does_not_fit() -> None:
    native = pytest.importorskip("pyjpllm.ops.native")
    with pytest.raises(ValueError, match=r"linear_grad_input: dy \[..., O\] and weight \[O, I\] are needed"):
        native.linear_grad_input(torch.ones(3, 4), torch.ones(5, 4))
    with pytest.raises(ValueError, match=r"linear_grad_weight: dy \[..., O\] and x \[..., I\] are needed"):
        native.linear_grad_weight(torch.ones(3, 4), torch.ones(2, 4))
