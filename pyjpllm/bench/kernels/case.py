"""What `jpllm bench kernels` measures: one case is an operation, a shape and a type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyjpllm.bench.timing import Work

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# How far ours may be from torch's, as a part of the result's Frobenius norm: both round, and sum in another order.
# FP32 sums of thousands of products; one rounding of a 16-bit result and those of what it is made from.
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 4e-3}


class Missing(Exception):  # noqa: N818 - no error: a fact that is listed
    """Our kernels lack this operation or this type; the text says what."""


@dataclass
class Subject:
    """A case with its memory: what is timed."""

    ours: Work
    theirs: Work | None = None
    bare: Work | None = None
    """What a fused operation cannot do without: its products alone."""
    exact: Work | None = None
    """What ours is compared with, where torch's own result is too far off for that."""


@dataclass(frozen=True)
class Case:
    """An operation on a shape in a type. ``make`` raises `Missing` where ours does not exist."""

    op: str
    """The name that `--op` takes."""
    what: str
    """The operation in the table, with its direction or orientation."""
    shape: str
    dtype: str
    make: Callable[[], Subject]
    flops: float = 0.0
    """Floating-point operations of one call; 0 for a memory-bound operation."""
    bytes: float = 0.0
    """Bytes that must be read and written once, for a memory-bound operation."""
    group: str = ""
    """The Done-when line and part that the row counts in, such as ``1 large``; '' for none."""
    facts: dict[str, float] = field(default_factory=dict)
    """More numbers for the final block: ``head``, ``inputs`` (bytes)."""


def native() -> Any:
    """Our kernels' operations, or `Missing`."""
    try:
        from pyjpllm.ops import native as module
    except ImportError as error:
        raise Missing(str(error)) from None
    return module


def ours(name: str) -> Callable[..., Any]:
    """The native operation ``name``, or `Missing`."""
    found: Callable[..., Any] | None = getattr(native(), name, None)
    if found is None:
        raise Missing(f"pyjpllm.ops.native has no {name}")
    return found


def normal(*shape: int, dtype: str, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Unit-normal numbers times ``scale``, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(shape).normal_(generator=generator)
    return x.mul_(scale).to(DTYPES[dtype])


def gradient(function: Callable[..., Any], inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Work:
    """The backward of ``function(*inputs)`` alone; forward runs now, once."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    result = function(*leaves)
    outputs = result if isinstance(result, tuple) else (result,)
    return lambda: torch.autograd.grad(outputs, leaves, gradients, retain_graph=True)


def without_gradient(function: Callable[..., Any], *inputs: Any, **options: Any) -> Work:
    """The forward of ``function`` alone."""

    def work() -> object:
        with torch.no_grad():
            return function(*inputs, **options)

    return work


def tensors(result: object) -> list[Tensor]:
    """The tensors in what a work returns."""
    if isinstance(result, Tensor):
        return [result]
    return [x for part in result for x in tensors(part)] if isinstance(result, (tuple, list)) else []


def result_bytes(result: object) -> int:
    """Bytes of the tensors that a work returns."""
    return sum(x.numel() * x.element_size() for x in tensors(result))


def difference(one: object, other: object) -> float:
    """How far two results are apart: the largest, over their tensors, of |a - b| / |b| in Frobenius norms."""
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    apart = (float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-30)) for a, b in pairs)
    return max(apart, default=0.0)
