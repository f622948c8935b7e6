"""Small models of every shape that is supported, for the tests of this room."""

from __future__ import annotations

from typing import Any

import torch

from pyjpllm.config.schema import ModelConfig, RopeScaling
from pyjpllm.model import Transformer, initialize
from pyjpllm.parallel import TensorParallel

SMALL: dict[str, Any] = {
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 4,
    "intermediate_size": 20,
    "vocab_size": 37,
    "max_position": 64,
    "rope_theta": 100.0,
    "init_std": 0.2,
}
LINEAR = RopeScaling(kind="linear", factor=4.0)
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=32)

# Wide enough a head that llama3's three ranges of frequencies are all there.
_WIDE_HEADS = {"head_dim": 16, "rope_theta": 10000.0}

VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tie_embeddings": True},
    "multi-head": {"num_kv_heads": 6},
    "multi-query": {"num_kv_heads": 1},
    "attention bias": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "qwen2": {"qkv_bias": True, "tie_embeddings": True},
    "qwen3": {"qk_norm": True, "head_dim": 8},
    "qwen3 bias": {"qk_norm": True, "qkv_bias": True, "out_bias": True},
    "mistral": {"sliding_window": 3},
    "qwen2 window": {"qkv_bias": True, "sliding_window": 3},
    "qwen3 window": {"qk_norm": True, "sliding_window": 3, "tie_embeddings": True},
    "linear scaling": {"rope_scaling": LINEAR},
    "llama3 scaling": {"rope_scaling": LLAMA3, **_WIDE_HEADS},
    "odd width": {"hidden_size": 23},
}

# Mixtures of experts: what transformers has (experts' rows must be whole 16 bytes there), and what it has not.
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 12, "moe": {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 12}},
    "mixtral window": {
        "sliding_window": 3,
        "intermediate_size": 12,
        "moe": {"num_experts": 3, "experts_per_token": 1, "intermediate_size": 12},
    },
    "qwen2 moe": {
        "qkv_bias": True,
        "moe": {
            "num_experts": 5,
            "experts_per_token": 3,
            "intermediate_size": 8,
            "normalize_weights": False,
            "shared_size": 10,
            "shared_gate": True,
            "layer_step": 2,
        },
    },
    "qwen3 moe": {
        "qk_norm": True,
        "head_dim": 8,
        "tie_embeddings": True,
        "moe": {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 8, "first_dense_layers": 1},
    },
}
OWN_MIXTURES: dict[str, dict[str, Any]] = {
    "sigmoid, shared": {
        "moe": {
            "num_experts": 6,
            "experts_per_token": 2,
            "intermediate_size": 5,
            "shared_size": 8,
            "router": "sigmoid",
            "router_z_loss": 0.02,
            "balance_loss": 0.1,
            "balance_bias_rate": 0.1,
        }
    },
    "all experts": {"moe": {"num_experts": 2, "experts_per_token": 2, "intermediate_size": 5, "router_z_loss": 0.3}},
    "one expert": {"moe": {"num_experts": 1, "experts_per_token": 1, "intermediate_size": 5}},
}


def config(variant: str = "llama", **fields: Any) -> ModelConfig:
    """The small model of that name, with other fields where given."""
    return ModelConfig(**{**SMALL, **{**VARIANTS, **MIXTURES, **OWN_MIXTURES}[variant], **fields})


def build(
    shape: ModelConfig,
    *,
    tp: TensorParallel | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 1,
    noise: bool = True,
) -> Transformer:
    """An initialised model; with ``noise`` norms and biases too are away from 1 and 0, so that they count."""
    model = Transformer(shape, tp=tp, dtype=dtype)
    initialize(model, seed)
    if noise:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for param in model.parameters():
                if param.ndim == 1:
                    noise_D = torch.randn(param.shape, generator=generator, dtype=torch.float64)
                    param.add_((0.3 * noise_D).to(param.dtype))
    return model


def tokens(batch: int = 2, length: int = 9, vocab_size: int = 37, seed: int = 0) -> torch.Tensor:
    """Random token ids [B, S]."""
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))
