"""Sizes and costs of a model, from its config. L layers, H query heads, d head width, S sequence, V vocabulary."""

from __future__ import annotations

from pyjpllm.config.schema import ModelConfig


def count_parameters(config: ModelConfig) -> int:
    """Number of weights; an embedding that the head shares counts once."""
    return _count(config, None)


def active_parameters(config: ModelConfig) -> int:
    """Number of weights that one token goes through: of a layer's experts those that are chosen."""
    return _count(config, config.moe.experts_per_token if config.moe is not None else None)


def _count(config: ModelConfig, experts: int | None) -> int:
    """Weights, with this many experts a layer; None: all."""
    D, d, F, moe = config.hidden_size, config.head_dim, config.intermediate_size, config.moe
    H, K = config.num_heads, config.num_kv_heads
    attention = D * d * (2 * H + 2 * K)
    attention += config.qkv_bias * d * (H + 2 * K) + config.out_bias * D + config.qk_norm * 2 * d
    mlp = 3 * D * F + config.mlp_bias * (2 * F + D)
    total = config.num_layers * (attention + mlp + 2 * D)
    if moe is not None:
        routed = moe.num_experts if experts is None else experts
        mixture = 3 * D * (routed * moe.intermediate_size + moe.shared_size) + D * (moe.num_experts + moe.shared_gate)
        total += (mixture - mlp) * sum(moe.is_sparse(layer) for layer in range(config.num_layers))
    tables = config.vocab_size * D * (1 if config.tie_embeddings else 2)
    return total + D + tables


def flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Floating-point operations of forward and backward for one token of a sequence, counted as MFU does.

    ``6 (N - E) + 12 L H d P``: N is the number of weights that a token goes through, the chosen experts' alone; E is
    the embedding, V D, which is looked up, not multiplied, unless it is the head as well; P is how many keys a query
    sees in the mean, ``(S + 1) / 2`` under the causal mask, less under a sliding window. Twice that many in backward
    as in forward; what activation checkpointing and the loss compute again is not counted, nor what document masks
    save (Chowdhery et al., 2022, arXiv:2204.02311, appendix B, whose attention is not halved).
    """
    E = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    S = sequence_length
    window = min(config.sliding_window or S, S)
    pairs = (window * (window + 1) / 2 + (S - window) * window) / S
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * pairs
    return 6 * (active_parameters(config) - E) + attention


def head_in_layers(config: ModelConfig, sequence_length: int) -> float:
    """How many layers (of the mean one) the output head computes as much as, forward and backward."""
    head = 6 * config.vocab_size * config.hidden_size
    return head * config.num_layers / (flops_per_token(config, sequence_length) - head)
