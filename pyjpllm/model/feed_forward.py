"""The SwiGLU feed-forward. N tokens, D model width, F feed-forward width; n this rank's tokens."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from pyjpllm import ops
from pyjpllm.model.remake import remade
from pyjpllm.parallel import ColumnParallelLinear, RowParallelLinear, TensorParallel


class MLP(nn.Module):
    """``down(silu(gate(x)) * up(x))`` (Shazeer, 2020, arXiv:2002.05202)."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        tp: TensorParallel,
        bias: bool = False,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        D, F = hidden_size, intermediate_size
        self.gate = ColumnParallelLinear(D, F, tp=tp, bias=bias, dtype=dtype, device=device)
        self.up = ColumnParallelLinear(D, F, tp=tp, bias=bias, dtype=dtype, device=device)
        self.down = RowParallelLinear(F, D, tp=tp, bias=bias, dtype=dtype, device=device)

    def forward(self, x_ND: Tensor, remake: bool = False, *, part: bool = False) -> Tensor:
        """x_ND -> y_nD. ``remake``: backward makes SwiGLU's output again; ``part``: this rank's part of y_ND."""
        gate_NF, up_NF = self.gate(x_ND), self.up(x_ND)
        hidden_NF = ops.swiglu(gate_NF, up_NF)
        with remade(hidden_NF, lambda: ops.swiglu(gate_NF, up_NF)) if remake else nullcontext():
            y: Tensor = self.down.part(hidden_NF) if part else self.down(hidden_NF)
        return y
