"""What the operations share: their names, the result of the loss, the shape of a rotary scaling."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
"""The types of `precision.dtype` by name."""

OPERATIONS: tuple[str, ...] = (
    "linear",
    "linear_grad_input",
    "linear_grad_weight",
    "rms_norm",
    "add_rms_norm",
    "attention",
    "attention_block",
    "attention_block_backward",
    "rotary",
    "swiglu",
    "embedding",
    "linear_logsumexp",
    "route",
    "sort_by_expert",
    "dispatch",
    "combine",
    "grouped_linear",
    "grouped_linear_grad_input",
    "grouped_linear_grad_weight",
    "adamw_step",
    "sum_of_squares",
)
"""What a backend implements. `linear_cross_entropy` is made of `linear_logsumexp` and is none of its own."""


Scoring = Literal["softmax", "sigmoid"]
"""How a router's logits become scores."""


class ExpertOrder(NamedTuple):
    """The order of rows by expert, from `sort_by_expert`. N tokens, k experts of each, M = N k rows, E experts."""

    token_M: Tensor
    """The token that a row is of."""
    position_Nk: Tensor
    """Where the row of a token's j-th expert lies."""
    sizes_E: Tensor
    """How many rows an expert has: the group sizes of `grouped_linear`."""


class CrossEntropy(NamedTuple):
    """Sums over the tokens that count, for the caller to divide by the count over all ranks."""

    loss: Tensor
    """Sum of ``lse - target_logit``, a scalar."""
    z_loss: Tensor
    """``z_loss`` times the sum of ``lse ** 2``, a scalar."""
    count: Tensor  # type: ignore[assignment]  # the field has a name that tuples use
    """Number of tokens that count, a scalar int64."""


class RopeScaling(Protocol):
    """What `rotary` reads of a scaling; `pyjpllm.config.schema.RopeScaling` is one."""

    @property
    def kind(self) -> str: ...
    @property
    def factor(self) -> float: ...
    @property
    def low_freq_factor(self) -> float: ...
    @property
    def high_freq_factor(self) -> float: ...
    @property
    def original_max_position(self) -> int: ...
