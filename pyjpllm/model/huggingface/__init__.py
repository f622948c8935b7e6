"""Models in and out as Hugging Face folders: Llama, Mistral, Qwen2 and Qwen3, dense."""

from pyjpllm.model.huggingface.config import config_json, load_config
from pyjpllm.model.huggingface.export import export
from pyjpllm.model.huggingface.weights import hf_name, load_weights

__all__ = ["config_json", "export", "hf_name", "load_config", "load_weights"]
