"""The transformer of the Llama family, dense or with experts: weights, loss, generation, Hugging Face folders."""

from pyjpllm.model.cache import KVCache
from pyjpllm.model.flops import active_parameters, count_parameters, flops_per_token, head_in_layers
from pyjpllm.model.generate import Reader, generate, stream
from pyjpllm.model.initialization import initialize
from pyjpllm.model.transformer import Transformer

__all__ = [
    "KVCache",
    "Reader",
    "Transformer",
    "active_parameters",
    "count_parameters",
    "flops_per_token",
    "generate",
    "head_in_layers",
    "initialize",
    "stream",
]
