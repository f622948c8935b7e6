"""Rotary positions. Letters: B batch, S sequence, H query heads, K key heads, D head width."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pyjpllm.ops.memo import TensorMemo
from pyjpllm.ops.native.library import OPS, define, gradient
from pyjpllm.ops.native.tensors import _native, array, check_storage, shapes
from pyjpllm.ops.rope import inverse_frequencies
from pyjpllm.ops.types import RopeScaling

_tables = TensorMemo()


def _table_BSD(positions_BS: Tensor, head_dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """Cosines of half the channels, then their sines: made once for all layers that share positions."""

    def make() -> Tensor:
        frequencies_d = inverse_frequencies(head_dim, theta, scaling, torch.float32, positions_BS.device)
        # Rows that are one row repeated share its angles.
        repeated = positions_BS.shape[0] > 1 and positions_BS.stride(0) == 0
        positions = positions_BS[:1] if repeated else positions_BS
        angles = positions.unsqueeze(-1).to(torch.float32) * frequencies_d
        table = torch.cat([angles.cos(), angles.sin()], -1)
        return table.expand(*positions_BS.shape, head_dim)

    if torch.compiler.is_compiling():
        return make()
    table: Tensor = _tables.get(positions_BS, (head_dim, theta, scaling), make)
    return table


def _heads_in_line(x_BSHD: Tensor) -> Tensor:
    return x_BSHD if x_BSHD.shape[-1] <= 1 or x_BSHD.stride(-1) == 1 else x_BSHD.contiguous()


def _call_rotary(q_BSHD: Tensor, k_BSKD: Tensor, table_BSD: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """q and k turned by the table's angles, or back."""
    q_out, k_out = q_BSHD.new_empty(q_BSHD.shape), k_BSKD.new_empty(k_BSKD.shape)
    _native.rotary(
        array(_heads_in_line(q_BSHD)),
        array(_heads_in_line(k_BSKD)),
        array(_heads_in_line(table_BSD)),
        array(q_out),
        array(k_out),
        inverse,
        torch.get_num_threads(),
    )
    return q_out, k_out


def _fake_rotary(q: Tensor, k: Tensor, table: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def _keep_rotary(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[2])
    ctx.inverse = inputs[3]


def _rotary_backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Tensor, Tensor, None, None]:
    # A rotation's transpose is the rotation back; through the operation itself, so that its gradient is right too.
    dq, dk = OPS.rotary(dq, dk, *ctx.saved_tensors, not ctx.inverse)
    return dq, dk, None, None


define("rotary(Tensor q, Tensor k, Tensor table, bool inverse) -> (Tensor, Tensor)", _call_rotary, _fake_rotary)
gradient("rotary", _rotary_backward, _keep_rotary)


def rotary(
    q: Tensor, k: Tensor, positions: Tensor, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """q [B, S, H, D] and k [B, S, K, D] turned by positions [B, S]; see `pyjpllm.ops.api.rotary`."""
    check_storage("rotary", q=q, k=k)
    fits = q.ndim == 4 and k.ndim == 4 and q.shape[:2] == k.shape[:2] == positions.shape and q.shape[3] == k.shape[3]
    fits = fits and q.shape[3] % 2 == 0
    shapes("rotary", "q [B, S, H, D], k [B, S, K, D] and positions [B, S] with D even", fits, q, k, positions)
    table_BSD = _table_BSD(positions, q.shape[3], theta, scaling)
    return cast("tuple[Tensor, Tensor]", OPS.rotary(q, k, table_BSD, False))
