"""The gradients of `linear` and `grouped_linear` apart: on every backend what autograd makes of the whole."""

from __future__ import annotations

import pytest
import torch

from pyjpllm import ops
from pyjpllm.ops.types import DTYPES

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


BACKENDS = [("torch", "fp64"), ("reference", "fp64"), ("native", "fp32"), ("torch", "bf16"), ("native", "bf16")]


@pytest.mark.parametrize(("backend", "dtype"), BACKENDS)
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


@pytest.mark.parametrize(("backend", "dtype"), BACKENDS)
@pytest.mark.parametrize("sizes", [(3, 0, 4), (0, 0, 0), (0, 0, 7)])
def test_they_are_the_gradients_of_grouped_linear(backend: str, dtype: str, sizes: tuple[int, ...]) -> None:
    if backend not in ops.available_backends():
        pytest.skip(f"{backend} is not here")
    generator = torch.Generator().manual_seed(2)
    x, w, dy = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(DTYPES[dtype])
        for shape in ((sum(sizes), 5), (3, 4, 5), (sum(sizes), 4))
    )
    wide_x, wide_w = x.double().requires_grad_(), w.double().requires_grad_()
    groups = zip(wide_x.split(sizes), wide_w, strict=True)
    whole = torch.cat([rows @ weight.T for rows, weight in groups])
    expected = torch.autograd.grad(whole, [wide_x, wide_w], dy.double())
    counts = torch.tensor(sizes)
    with ops.use_backend(backend):
        found = [
            ops.grouped_linear_grad_input(dy, w.requires_grad_(), counts),
            ops.grouped_linear_grad_weight(dy, x.requires_grad_(), counts),
        ]
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
    with pytest.raises(ValueError, match=r"grouped_linear_grad_weight: dy \[N, O\], x \[N, I\] and group sizes"):
        native.grouped_linear_grad_weight(torch.ones(3, 4), torch.ones(2, 4), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"grouped_linear_grad_input: dy \[N, O\], weights \[E, O, I\] and"):
        native.grouped_linear_grad_input(torch.ones(3, 4), torch.ones(1, 5, 4), torch.tensor([3]))
