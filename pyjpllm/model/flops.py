"""Sizes and costs of a model, from its config. L layers, H query heads, d head width, S sequence, V vocabulary."""

from __future__ import annotations

from pyjpllm.config.schema import ModelConfig


def count_parameters(config: ModelConfig) -> int:
    """Number of weights; an embedding that the head shares counts once."""
    D, d, F = config.hidden_size, config.head_dim, config.intermediate_size
    H, K = config.num_heads, config.num_kv_heads
    attention = D * d * (2 * H + 2 * K)
    attention += config.qkv_bias * d * (H + 2 * K) + config.out_bias * D + config.qk_norm * 2 * d
    mlp = 3 * D * F + config.mlp_bias * (2 * F + D)
    tables = config.vocab_size * D * (1 if config.tie_embeddings else 2)
    return config.num_layers * (attention + mlp + 2 * D) + D + tables


def flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Floating-point operations of forward and backward for one token of a sequence, counted as MFU does.

    ``6 (N - E) + 12 L H d P``: N is the number of weights; E is the embedding, V D, which is looked up, not
    multiplied, unless it is the head as well; P is how many keys a query sees in the mean, ``(S + 1) / 2`` under the
    causal mask, less under a sliding window. Twice that many in backward as in forward; what activation checkpointing
    and the loss compute again is not counted, nor what document masks save (Chowdhery et al., 2022,
    arXiv:2204.02311, appendix B, whose attention is not halved).
    """
    E = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    S = sequence_length
    window = min(config.sliding_window or S, S)
    pairs = (window * (window + 1) / 2 + (S - window) * window) / S
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * pairs
    return 6 * (count_parameters(config) - E) + attention
