"""The choice of how linear layers are summed: the layer's three products take it, FP32 tensors do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyjpllm import ops
from pyjpllm.errors import UserError
from tests.kernels.halves import chunked_sums, same


def layer(dtype: torch.dtype) -> list[torch.Tensor]:
    """A layer's output and gradients of input and weight, and what they are products of."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 20, 70, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(33, 70, generator=generator).to(dtype).requires_grad_()
    dy = torch.randn(2, 20, 33, generator=generator).to(dtype)
    y = ops.linear(x, weight)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), dy), x.detach(), weight.detach(), dy]


@pytest.mark.parametrize("chunk", [16, 64])
def test_forward_and_both_gradients_are_summed_in_chunks(chunk: int) -> None:
    with ops.use_backend("native"), ops.use_math("fp16-chunk", chunk):
        made = layer(torch.float16)
    y, dx, dweight, x, weight, dy = (t.reshape(-1, t.shape[-1]).numpy() for t in made)
    same(y, chunked_sums(x, weight.T, chunk).astype(np.float16))
    same(dx, chunked_sums(dy, weight, chunk).astype(np.float16))
    same(dweight, chunked_sums(dy.T, x, chunk).astype(np.float16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_are_summed_in_fp32_all_the_same(dtype: torch.dtype) -> None:
    with ops.use_backend("native"):
        expected = layer(dtype)
        with ops.use_math("fp16-chunk"):
            made = layer(dtype)
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))


def test_the_choice_ends_with_its_block() -> None:
    with ops.use_math("fp16-chunk", 128):
        assert ops.current_math() == ("fp16-chunk", 128)
    assert ops.current_math() == ("exact", 32)


def test_unknown_names_and_chunks_are_told() -> None:
    with pytest.raises(UserError, match=r"unknown math 'fp16_chunk'.*'fp16-chunk'"):
        ops.use_math("fp16_chunk")
    with pytest.raises(UserError, match="must be 16, 32, 64 or 128, is 48; nearest: 32"):
        ops.use_math("fp16-chunk", 48)
    assert ops.current_math() == ("exact", 32)
