"""The operations the model is written in, the same on every backend (`reference`, `torch`, `native`)."""

from pyjpllm.ops.api import (
    adamw_step,
    attention,
    embedding,
    grouped_linear,
    linear,
    linear_cross_entropy,
    linear_logsumexp,
    rms_norm,
    rotary,
    swiglu,
)
from pyjpllm.ops.registry import (
    available_backends,
    current_backend,
    missing_operations,
    register_backend,
    unavailable_reason,
    use_backend,
)
from pyjpllm.ops.types import OPERATIONS, CrossEntropy, RopeScaling

__all__ = [
    "OPERATIONS",
    "CrossEntropy",
    "RopeScaling",
    "adamw_step",
    "attention",
    "available_backends",
    "current_backend",
    "embedding",
    "grouped_linear",
    "linear",
    "linear_cross_entropy",
    "linear_logsumexp",
    "missing_operations",
    "register_backend",
    "rms_norm",
    "rotary",
    "swiglu",
    "unavailable_reason",
    "use_backend",
]
