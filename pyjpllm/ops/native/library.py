"""Native operations as torch sees them (`torch.library`): schema, shapes for tracing, gradient.

Autograd, activation checkpointing and torch.compile treat `torch.ops.jpllm.*` as any operator of torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("jpllm", "DEF")  # type: ignore[no-untyped-call]
OPS = torch.ops.jpllm


def define(signature: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    name = signature.split("(", 1)[0]
    LIBRARY.define(signature, tags=torch.Tag.pt2_compliant_tag)  # type: ignore[no-untyped-call]
    LIBRARY.impl(name, kernel, "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"jpllm::{name}", fake, lib=LIBRARY)


def define_gradient(signature: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """A backward operation: its own gradient is an error. Without one autograd would take it for zero."""

    name = f"jpllm::{signature.split('(', 1)[0]}"

    def second(ctx: Any, *_grads: Tensor) -> None:
        raise RuntimeError(f"{name}: second derivatives are not implemented")

    define(signature, kernel, fake)
    torch.library.register_autograd(name, second, lib=LIBRARY)


def gradient(name: str, backward: Callable[..., Any], setup: Callable[..., None]) -> None:
    torch.library.register_autograd(f"jpllm::{name}", backward, setup_context=setup, lib=LIBRARY)
