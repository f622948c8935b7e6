"""Inputs for every operation, shared by the tests of all backends.

A case is a function of floating-point tensors and those tensors: `case.function(*case.inputs)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyjpllm import ops
from pyjpllm.config.schema import RopeScaling

LINEAR = RopeScaling(kind="linear", factor=4.0)
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=64)


@dataclass(frozen=True)
class Case:
    """One call of an operation."""

    operation: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]

    def inputs(self, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes]
        return [tensor.to(device, dtype).requires_grad_() for tensor in made]


def _on(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.to(like.device)


IDS = torch.tensor([[0, 0, 1, 1, 1], [3, 3, 3, 3, 4]])
KEY_IDS = torch.tensor([[9, 0, 0, 1, 1, 1], [3, 3, 3, 3, 3, 4]])
POSITIONS = torch.tensor([[0, 1, 2, 0, 1], [40, 41, 42, 1000, 7]])
TOKENS = torch.tensor([[0, 3, 3], [6, 3, 1]])
TARGETS = torch.tensor([0, 6, -100, 3, 3, -1, 7])
COUNTED = torch.tensor([0, 6, -100, 3, 3, 2, 6])
CHOSEN = torch.tensor([[2, 0], [3, 2], [0, 2], [2, 3]])
BIAS = torch.tensor([0.0, 0.5, -0.5, 1.0, 0.0, 0.25])
SIZES = torch.tensor([2, 0, 4, 1])

_Q, _K, _K6 = (2, 5, 4, 2), (2, 5, 2, 2), (2, 6, 2, 2)


def _attention(**settings: Any) -> Callable[..., Tensor]:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        placed = {name: _on(x, q) if isinstance(x, Tensor) else x for name, x in settings.items()}
        return ops.attention(q, k, v, **placed)

    return function


def _rotary(scaling: RopeScaling | None) -> Callable[..., Any]:
    return lambda q, k: ops.rotary(q, k, _on(POSITIONS, q), 100.0, scaling)


def _cross_entropy(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    result = ops.linear_cross_entropy(hidden, weight, _on(COUNTED, hidden), z_loss=0.1, ignore_index=-100)
    return result.loss, result.z_loss


def _route(k: int = 2, **settings: Any) -> Callable[..., Tensor]:
    def function(logits: Tensor) -> Tensor:
        placed = {name: _on(x, logits) if isinstance(x, Tensor) else x for name, x in settings.items()}
        return ops.route(logits, k, **placed)[1]

    return function


def _order(x: Tensor) -> ops.ExpertOrder:
    return ops.sort_by_expert(_on(CHOSEN, x), 4)


CASES: dict[str, Case] = {
    "linear": Case("linear", ops.linear, ((2, 3, 4), (5, 4))),
    "linear bias": Case("linear", ops.linear, ((3, 4), (5, 4), (5,))),
    "rms_norm": Case("rms_norm", lambda x, w: ops.rms_norm(x, w, 1e-5), ((2, 3, 7), (7,))),
    "rms_norm 2d": Case("rms_norm", lambda x, w: ops.rms_norm(x, w, 1e-2), ((5, 7), (7,))),
    "add_rms_norm": Case("add_rms_norm", lambda x, u, w: ops.add_rms_norm(x, u, w, 1e-5), ((2, 3, 7), (2, 3, 7), (7,))),
    "attention": Case("attention", _attention(), (_Q, _Q, _Q)),
    "attention grouped": Case("attention", _attention(), (_Q, _K, _K)),
    "attention full": Case("attention", _attention(causal=False, scale=0.3), (_Q, _K, _K)),
    "attention cache": Case("attention", _attention(), (_Q, _K6, _K6)),
    "attention one query": Case("attention", _attention(), ((2, 1, 4, 2), _K6, _K6)),
    "attention window": Case("attention", _attention(window=2), (_Q, _K, _K)),
    "attention window cache": Case("attention", _attention(window=3), (_Q, _K6, _K6)),
    "attention full window": Case("attention", _attention(causal=False, window=2), (_Q, _K, _K)),
    "attention documents": Case("attention", _attention(document_ids_BS=IDS), (_Q, _K, _K)),
    "attention documents window": Case("attention", _attention(document_ids_BS=IDS, window=2), (_Q, _K, _K)),
    "attention documents cache": Case(
        "attention", _attention(document_ids_BS=IDS, key_document_ids_BT=KEY_IDS), (_Q, _K6, _K6)
    ),
    "rotary": Case("rotary", _rotary(None), (_Q, _K)),
    "rotary linear": Case("rotary", _rotary(LINEAR), (_Q, _K)),
    "rotary llama3": Case("rotary", _rotary(LLAMA3), ((2, 5, 1, 16), (2, 5, 1, 16))),
    "swiglu": Case("swiglu", ops.swiglu, ((3, 2, 5), (3, 2, 5))),
    "embedding": Case("embedding", lambda w: ops.embedding(_on(TOKENS, w), w), ((7, 4),)),
    "linear_logsumexp": Case(
        "linear_logsumexp", lambda h, w: ops.linear_logsumexp(h, w, _on(TARGETS, h)), ((7, 4), (7, 4))
    ),
    "linear_cross_entropy": Case("linear_logsumexp", _cross_entropy, ((7, 4), (7, 4))),
    "route": Case("route", _route(), ((5, 6),)),
    "route one": Case("route", _route(k=1, normalize=False), ((5, 6),)),
    "route softmax": Case("route", _route(normalize=False), ((5, 6),)),
    "route sigmoid": Case("route", _route(scoring="sigmoid"), ((5, 6),)),
    "route sigmoid bias": Case("route", _route(scoring="sigmoid", normalize=False, bias_E=BIAS), ((5, 6),)),
    "route bias": Case("route", _route(bias_E=BIAS), ((5, 6),)),
    "dispatch": Case("dispatch", lambda x: ops.dispatch(x, _order(x)), ((4, 3),)),
    "combine": Case("combine", lambda x, w: ops.combine(x, _order(x), w), ((8, 3), (4, 2))),
    "grouped_linear": Case("grouped_linear", lambda x, w: ops.grouped_linear(x, w, _on(SIZES, x)), ((7, 3), (4, 5, 3))),
}


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    """The floating-point results of an operation."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def run(case: Case, dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of a case, and gradients of its inputs for fixed random gradients of the outputs."""
    inputs = case.inputs(dtype, device)
    outputs = as_tuple(case.function(*inputs))
    generator = torch.Generator().manual_seed(7)
    seeds = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype) for y in outputs]
    return [y.detach() for y in outputs], list(torch.autograd.grad(outputs, inputs, seeds))
