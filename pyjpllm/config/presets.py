"""Named model shapes from 1M to 47B parameters, in the proportions of Llama and Mixtral."""

from __future__ import annotations

from typing import Any


def _llama(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": hidden // heads,
        "intermediate_size": ffn,
        **more,
    }


def _experts(count: int, per_token: int, ffn: int) -> dict[str, Any]:
    return {"num_experts": count, "experts_per_token": per_token, "intermediate_size": ffn}


# Parameter counts in the comments leave the embedding out.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": _llama(128, 4, 4, 2, 384, max_position=2048, tie_embeddings=True),  # 0.8M
    "5m": _llama(256, 6, 4, 2, 768, max_position=2048, tie_embeddings=True),  # 4.7M
    "25m": _llama(512, 8, 8, 4, 1408, max_position=2048, tie_embeddings=True),  # 23.6M
    "125m": _llama(768, 12, 12, 12, 2048),  # 85M
    "350m": _llama(1024, 24, 16, 16, 2816),  # 308M
    "760m": _llama(1536, 24, 16, 16, 4096),  # 680M
    "1.3b": _llama(2048, 24, 16, 16, 5632),  # 1.2B
    "3.7b": _llama(3072, 28, 24, 8, 8192),  # 2.8B
    "7b": _llama(4096, 32, 32, 32, 11008),  # 6.5B
    "8b": _llama(4096, 32, 32, 8, 14336),  # 7.0B
    "13b": _llama(5120, 40, 40, 40, 13824),  # 12.7B
    # Mixtures of experts: weights in all, and those that a token goes through.
    "tiny-moe": _llama(128, 4, 4, 2, 384, max_position=2048, tie_embeddings=True, moe=_experts(8, 2, 192)),  # 2.6M, .8M
    "8x7b": _llama(4096, 32, 32, 8, 14336, max_position=32768, rope_theta=1e6, moe=_experts(8, 2, 14336)),  # 46B, 13B
}
