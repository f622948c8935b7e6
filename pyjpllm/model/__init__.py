"""The transformer of the Llama family: its weights, its loss, generation, Hugging Face folders."""

from pyjpllm.model.cache import KVCache
from pyjpllm.model.initialize import initialize
from pyjpllm.model.transformer import Transformer

__all__ = ["KVCache", "Transformer", "initialize"]
