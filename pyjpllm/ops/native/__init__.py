"""The `native` backend: this project's own kernels (kernels/, through csrc/), on the CPU.

The functions are those of `pyjpllm.ops.api`; what is missing here is taken from `torch` by the registry, which says so.
Importing this package raises ImportError where the kernels are not built.
"""

from pyjpllm.ops.native.attention import attention, attention_block, attention_block_backward
from pyjpllm.ops.native.elementwise import cast_to, softmax, swiglu
from pyjpllm.ops.native.embedding import embedding
from pyjpllm.ops.native.experts import (
    combine,
    dispatch,
    grouped_linear,
    grouped_linear_grad_input,
    grouped_linear_grad_weight,
    route,
    sort_by_expert,
)
from pyjpllm.ops.native.linear import linear, linear_grad_input, linear_grad_weight
from pyjpllm.ops.native.loss import linear_logsumexp, summed_cross_entropy
from pyjpllm.ops.native.norm import add_rms_norm, layer_norm, rms_norm
from pyjpllm.ops.native.optim import adamw_step, sum_of_squares
from pyjpllm.ops.native.prepack import prepacked
from pyjpllm.ops.native.rotary import rotary

__all__ = [
    "NAME",
    "adamw_step",
    "add_rms_norm",
    "attention",
    "attention_block",
    "attention_block_backward",
    "cast_to",
    "combine",
    "dispatch",
    "embedding",
    "grouped_linear",
    "grouped_linear_grad_input",
    "grouped_linear_grad_weight",
    "layer_norm",
    "linear",
    "linear_grad_input",
    "linear_grad_weight",
    "linear_logsumexp",
    "prepacked",
    "rms_norm",
    "rotary",
    "route",
    "softmax",
    "sort_by_expert",
    "sum_of_squares",
    "summed_cross_entropy",
    "swiglu",
]

NAME = "native"
