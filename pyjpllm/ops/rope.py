"""Rotary frequencies, shared by every backend. d = head_dim / 2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyjpllm.ops.types import RopeScaling


def inverse_frequencies(
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Angle per position of each pair of channels, [head_dim / 2], computed in ``dtype`` (FP32 or FP64).

    ``theta ** (-2 i / head_dim)`` (Su et al., 2021, arXiv:2104.09864). `linear` divides all by ``factor`` (Chen et
    al., 2023, arXiv:2306.15595). `llama3` divides those whose wavelength is above
    ``original_max_position / low_freq_factor``, keeps those below ``original_max_position / high_freq_factor`` and
    goes linearly in the frequency between (Llama 3.1's reference code). The order of operations is that of
    transformers, so that FP32 tables are the same bits.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64, device=device).to(dtype) / head_dim
    frequencies_d = 1.0 / (theta**exponents)
    if scaling is None:
        return frequencies_d
    if scaling.kind == "linear":
        return frequencies_d / scaling.factor
    if scaling.kind == "llama3":
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        wavelengths_d = 2 * math.pi / frequencies_d
        smooth_d = (scaling.original_max_position / wavelengths_d - low) / (high - low)
        blended_d = (1 - smooth_d) * frequencies_d / scaling.factor + smooth_d * frequencies_d
        long_d = wavelengths_d > scaling.original_max_position / low
        short_d = wavelengths_d < scaling.original_max_position / high
        return torch.where(long_d, frequencies_d / scaling.factor, torch.where(short_d, frequencies_d, blended_d))
    raise ValueError(f"unknown rotary scaling {scaling.kind!r}; allowed: linear, llama3")
