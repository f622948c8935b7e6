"""Models in and out as Hugging Face folders: Llama, Mistral, Qwen2 and Qwen3, dense."""

from pyjpllm.model.huggingface.config import config_json, load_config
from pyjpllm.model.huggingface.read import hf_name, load_weights
from pyjpllm.model.huggingface.write import export

__all__ = ["config_json", "export", "hf_name", "load_config", "load_weights"]
