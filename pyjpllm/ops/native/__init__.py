"""The `native` backend: this project's own kernels (kernels/, through csrc/), on the CPU in FP32.

The functions are those of `pyjpllm.ops.api`; what is missing here is taken from `torch` by the registry, which says so.
Importing this package raises ImportError where the kernels are not built.
"""

from pyjpllm.ops.native.fused import rms_norm, swiglu
from pyjpllm.ops.native.linear import linear
from pyjpllm.ops.native.loss import linear_logsumexp
from pyjpllm.ops.native.optim import adamw_step

__all__ = ["NAME", "adamw_step", "linear", "linear_logsumexp", "rms_norm", "swiglu"]

NAME = "native"
