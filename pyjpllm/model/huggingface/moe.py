"""The experts in `config.json` of Mixtral, Qwen2-MoE and Qwen3-MoE, to and from `MoEConfig`."""

from __future__ import annotations

from typing import Any

from pyjpllm.config.schema import ModelConfig, MoEConfig
from pyjpllm.errors import UserError
from pyjpllm.model.huggingface.reader import Reader

# Defaults of transformers' configuration classes beside those that all models share.
_QWEN: dict[str, Any] = {
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": False,
    "router_aux_loss_coef": 0.001,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "mixtral": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.001,
    },
    "qwen2_moe": {
        **_QWEN,
        "num_key_value_heads": 16,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "qkv_bias": True,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    "qwen3_moe": {
        **_QWEN,
        "num_key_value_heads": 4,
        "sliding_window": 4096,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
}
CLASSES = {
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}


def read(reader: Reader, kind: str, layers: int) -> dict[str, Any]:
    """Fields of `MoEConfig`."""
    common = {
        "experts_per_token": reader.integer("num_experts_per_tok"),
        "balance_loss": reader.number("router_aux_loss_coef"),
    }
    if kind == "mixtral":
        experts = {"num_experts": reader.integer("num_local_experts")}
        return {**common, **experts, "intermediate_size": reader.integer("intermediate_size")}
    # transformers 5 writes num_local_experts for Qwen3-MoE, 4 wrote num_experts.
    count = "num_local_experts" if "num_local_experts" in reader.values else "num_experts"
    fields = {
        **common,
        "num_experts": reader.integer(count),
        "intermediate_size": reader.integer("moe_intermediate_size"),
        "normalize_weights": reader.flag("norm_topk_prob"),
        **_sparse_layers(reader, layers),
    }
    if kind == "qwen2_moe":
        fields |= {"shared_size": reader.integer("shared_expert_intermediate_size"), "shared_gate": True}
    return fields


def _sparse_layers(reader: Reader, layers: int) -> dict[str, int]:
    """Which layers have experts, as `MoEConfig` says it: all from one on, in steps."""
    step, dense = reader.integer("decoder_sparse_step"), reader.get("mlp_only_layers") or []
    if step < 1:
        raise reader.fail(f"decoder_sparse_step = {step} is not positive")
    if not isinstance(dense, list) or not all(isinstance(layer, int) for layer in dense):
        raise reader.fail(f"mlp_only_layers = {dense!r} is no list of layers")
    first = next(layer for layer in range(layers + 1) if layer not in dense)
    if any(layer >= first and (layer + 1) % step == 0 for layer in dense if layer < layers):
        raise reader.fail(f"mlp_only_layers = {dense} is supported for the first layers only")
    return {"first_dense_layers": first, "layer_step": step}


def architecture(config: ModelConfig, moe: MoEConfig) -> str:
    """Model type that a config with experts is written as; UserError when none can express it."""
    if moe.router != "softmax" or moe.balance_bias_rate:
        raise UserError("moe.router = 'sigmoid' and moe.balance_bias_rate have no Hugging Face form here")
    if config.mlp_bias:
        raise UserError("moe with mlp_bias has no Hugging Face form")
    if config.qk_norm:
        if moe.shared_size or config.qkv_bias != config.out_bias:
            raise UserError(
                "moe with qk_norm and a shared expert, or only one of qkv_bias and out_bias, has no Hugging Face form "
                "(Qwen3-MoE has biases on all four projections of attention or on none)"
            )
        return "qwen3_moe"
    if config.out_bias:
        raise UserError("moe with out_bias has a Hugging Face form with qk_norm only (Qwen3-MoE)")
    if moe.shared_size and moe.shared_gate:
        return "qwen2_moe"
    if moe.shared_size or config.qkv_bias:
        raise UserError(
            "moe with qkv_bias, or a shared expert, has a Hugging Face form with a shared expert and its gate only "
            "(Qwen2-MoE)"
        )
    if not moe.normalize_weights or not all(moe.is_sparse(layer) for layer in range(config.num_layers)):
        raise UserError(
            "moe with dense layers, or without normalize_weights, has no Hugging Face form without qk_norm (Qwen3-MoE) "
            "or a shared expert (Qwen2-MoE)"
        )
    return "mixtral"


def values(config: ModelConfig, moe: MoEConfig, kind: str) -> dict[str, Any]:
    """What `config.json` says of the experts."""
    common = {"num_experts_per_tok": moe.experts_per_token, "router_aux_loss_coef": moe.balance_loss}
    if kind == "mixtral":
        return {**common, "num_local_experts": moe.num_experts, "intermediate_size": moe.intermediate_size}
    found = {
        **common,
        "num_experts": moe.num_experts,
        "moe_intermediate_size": moe.intermediate_size,
        "norm_topk_prob": moe.normalize_weights,
        "decoder_sparse_step": moe.layer_step,
        "mlp_only_layers": list(range(moe.first_dense_layers)),
    }
    if kind == "qwen2_moe":
        found |= {"shared_expert_intermediate_size": moe.shared_size, "qkv_bias": config.qkv_bias}
    return found
