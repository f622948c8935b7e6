"""The `native` backend: this project's own kernels (kernels/, through csrc/), on the CPU.

The functions are those of `pyjpllm.ops.api`; what is missing here is taken from `torch` by the registry, which says so.
Importing this package raises ImportError where the kernels are not built.
"""

from pyjpllm.ops.native.attention import attention
from pyjpllm.ops.native.elementwise import cast_to, softmax, swiglu
from pyjpllm.ops.native.linear import linear
from pyjpllm.ops.native.loss import linear_logsumexp, summed_cross_entropy
from pyjpllm.ops.native.norm import add_rms_norm, layer_norm, rms_norm
from pyjpllm.ops.native.optim import adamw_step
from pyjpllm.ops.native.rotary import rotary

__all__ = [
    "NAME",
    "adamw_step",
    "add_rms_norm",
    "attention",
    "cast_to",
    "layer_norm",
    "linear",
    "linear_logsumexp",
    "rms_norm",
    "rotary",
    "softmax",
    "summed_cross_entropy",
    "swiglu",
]

NAME = "native"
