"""The transformer of the Llama family: its weights, its loss, generation, Hugging Face folders."""

from pyjpllm.model.cache import KVCache
from pyjpllm.model.flops import count_parameters, flops_per_token
from pyjpllm.model.generate import generate, stream
from pyjpllm.model.initialization import initialize
from pyjpllm.model.transformer import Transformer

__all__ = ["KVCache", "Transformer", "count_parameters", "flops_per_token", "generate", "initialize", "stream"]
