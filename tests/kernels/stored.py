"""Torch tensors for the compiled kernels, in every storage type, and bounds that know the type."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

TYPES = [torch.float32, torch.bfloat16, torch.float16]
types = st.sampled_from(TYPES)


def array(t: torch.Tensor) -> tuple:
    return t.data_ptr(), tuple(t.shape), t.stride(), str(t.dtype).removeprefix("torch."), t


def made(dtype: torch.dtype, *shape: int, gap: int = 0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn((*shape[:-1], shape[-1] + gap), generator=generator, dtype=torch.float64)
    return wide.to(dtype)[..., gap:]


def close(got: torch.Tensor, want: torch.Tensor, bound: torch.Tensor | float) -> None:
    """FP32's `bound`, and a rounding to the type of `got`: relative, below FP16's normal numbers 2^-25."""
    step = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[got.dtype]
    smallest = 2.0**-25 if got.dtype == torch.float16 else 0.0
    error = (got.double() - want).abs()
    allowed = bound + step * (want.abs() + bound) + smallest
    assert bool((error <= allowed).all()), f"{got.dtype}: worst {error.max()}, allowed there {allowed.max()}"
