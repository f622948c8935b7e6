"""Models in and out as Hugging Face folders: Llama, Mistral, Qwen2, Qwen3, Mixtral, Qwen2-MoE, Qwen3-MoE."""

from pyjpllm.model.huggingface.config import config_json, load_config
from pyjpllm.model.huggingface.names import hf_name
from pyjpllm.model.huggingface.read import load_weights
from pyjpllm.model.huggingface.write import export, is_part

__all__ = ["config_json", "export", "hf_name", "is_part", "load_config", "load_weights"]
