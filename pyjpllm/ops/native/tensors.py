"""Torch tensors as the compiled kernels take them: addresses and strides, views as rows; and what may not be passed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyjpllm.errors import UserError

__all__ = ["_native", "array", "check", "check_storage", "flat_rows", "rows", "rows_in_line", "shapes"]

try:
    from pyjpllm import _native
except ImportError as error:
    if str(error).startswith("JPLLM_ISA"):
        raise
    raise ImportError(
        f"the native kernels are not built for this Python ({error}); `pip install .` in the source tree builds them"
    ) from error

_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.uint8: "uint8",
}


def array(t: Tensor) -> _native.Array:
    """What the compiled module takes for an array; it holds the tensor, which may be a copy made for the call."""
    return t.data_ptr(), t.shape, t.stride(), _NAMES.get(t.dtype, str(t.dtype)), t


def rows(x: Tensor) -> Tensor:
    """x [..., D] as a matrix [M, D]; a copy only where its strides cannot say so. One dimension is one row."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def rows_in_line(x: Tensor) -> Tensor:
    """`rows` whose elements lie side by side, as the kernels that walk rows want them."""
    x_MD = rows(x)
    return x_MD if x_MD.shape[1] <= 1 or x_MD.stride(1) == 1 else x_MD.contiguous()


def flat_rows(*tensors: Tensor) -> list[Tensor]:
    """Elementwise operands as matrices: one long row where all are contiguous, so that threads split it evenly."""
    if all(t.is_contiguous() for t in tensors):
        size = tensors[0].numel()
        width = next((w for w in (1024, 256, 64) if size % w == 0), max(tensors[0].shape[-1], 1))
        return [t.view(size // width, width) for t in tensors]
    return [rows_in_line(t) for t in tensors]


def check(operation: str, **tensors: Tensor | None) -> None:
    for name, t in tensors.items():
        if t is None:
            continue
        if t.dtype != torch.float32:
            dtype = str(t.dtype).removeprefix("torch.")
            raise UserError(
                f"{operation}: the native kernels compute in float32 and {name} is {dtype}; "
                "set precision.dtype = 'fp32', or train.kernels = 'torch'"
            )
        _on_cpu(operation, name, t)


def _on_cpu(operation: str, name: str, t: Tensor) -> None:
    if t.device.type not in ("cpu", "meta"):
        raise UserError(
            f"{operation}: the native kernels compute on the CPU and {name} is on {t.device}; "
            "set train.kernels = 'torch'"
        )


def check_storage(operation: str, **tensors: Tensor | None) -> None:
    """As `check`, for operations on FP32, BF16 or FP16 tensors of one type."""
    first: tuple[str, str] | None = None
    for name, t in tensors.items():
        if t is None:
            continue
        dtype = str(t.dtype).removeprefix("torch.")
        if t.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise UserError(
                f"{operation}: the native kernels compute in float32, bfloat16 and float16 and {name} is {dtype}; "
                "set train.kernels = 'torch'"
            )
        if first is not None and dtype != first[1]:
            raise UserError(f"{operation}: one type is needed, and {first[0]} is {first[1]}, {name} {dtype}")
        first = first or (name, dtype)
        _on_cpu(operation, name, t)


def shapes(operation: str, needed: str, ok: bool, *tensors: Tensor | None) -> None:
    if not ok:
        got = ", ".join(str(tuple(t.shape)) for t in tensors if t is not None)
        raise ValueError(f"{operation}: {needed} are needed, got {got}")
