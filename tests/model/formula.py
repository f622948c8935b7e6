"""The Llama family written as its formulas, one token and one head at a time: what the model must equal."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pyjpllm.config.schema import ModelConfig

State = Mapping[str, Tensor]


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / torch.sqrt((x * x).sum() / len(x) + eps)


def frequency(config: ModelConfig, i: int) -> float:
    value = config.rope_theta ** (-2 * i / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return value
    if scaling.kind == "linear":
        return value / scaling.factor
    turns = scaling.original_max_position * value / (2 * math.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = min(1.0, max(0.0, keep))
    return keep * value + (1 - keep) * value / scaling.factor


def rotate(config: ModelConfig, x: Tensor, position: int) -> Tensor:
    half = config.head_dim // 2
    angles = [position * frequency(config, i) for i in range(half)]
    first = [x[i] * math.cos(angles[i]) - x[i + half] * math.sin(angles[i]) for i in range(half)]
    second = [x[i + half] * math.cos(angles[i]) + x[i] * math.sin(angles[i]) for i in range(half)]
    return torch.stack(first + second)


def affine(state: State, name: str, x: Tensor) -> Tensor:
    y = state[f"{name}.weight"] @ x
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def attention(config: ModelConfig, state: State, at: str, xs: list[Tensor], positions: list[int], documents: list[int]):
    d, per_kv = config.head_dim, config.num_heads // config.num_kv_heads

    def heads(name: str, count: int) -> list[list[Tensor]]:
        return [[affine(state, f"{at}.{name}", x)[h * d : (h + 1) * d] for h in range(count)] for x in xs]

    qs, ks, vs = heads("q", config.num_heads), heads("k", config.num_kv_heads), heads("v", config.num_kv_heads)
    for name, rows in (("q", qs), ("k", ks)):
        for s, row in enumerate(rows):
            if config.qk_norm:
                row = [norm(x, state[f"{at}.{name}_norm.weight"], config.norm_eps) for x in row]
            rows[s] = [rotate(config, x, positions[s]) for x in row]
    outputs = []
    for s in range(len(xs)):
        first = 0 if config.sliding_window is None else max(0, s + 1 - config.sliding_window)
        seen = [t for t in range(first, s + 1) if documents[t] == documents[s]]
        joined = []
        for h in range(config.num_heads):
            kv = h // per_kv
            weights = torch.softmax(torch.stack([qs[s][h] @ ks[t][kv] / math.sqrt(d) for t in seen]), 0)
            joined.append(sum(w * vs[t][kv] for w, t in zip(weights, seen, strict=True)))
        outputs.append(affine(state, f"{at}.o", torch.cat(joined)))
    return outputs


def mlp(state: State, at: str, x: Tensor) -> Tensor:
    gate = affine(state, f"{at}.gate", x)
    return affine(state, f"{at}.down", gate / (1 + torch.exp(-gate)) * affine(state, f"{at}.up", x))


def logits(
    config: ModelConfig, state: State, ids: list[int], positions: list[int] | None = None, documents=None
) -> Tensor:
    """Logits [S, V] of one sequence."""
    positions = list(range(len(ids))) if positions is None else positions
    documents = [0] * len(ids) if documents is None else documents
    xs = [state["embedding.weight"][i] for i in ids]
    for layer in range(config.num_layers):
        at = f"blocks.{layer}"
        normed = [norm(x, state[f"{at}.attention_norm.weight"], config.norm_eps) for x in xs]
        update = attention(config, state, f"{at}.attention", normed, positions, documents)
        xs = [x + u for x, u in zip(xs, update, strict=True)]
        xs = [x + mlp(state, f"{at}.mlp", norm(x, state[f"{at}.mlp_norm.weight"], config.norm_eps)) for x in xs]
    head = state["embedding.weight"] if config.tie_embeddings else state["head.weight"]
    return torch.stack([head @ norm(x, state["norm.weight"], config.norm_eps) for x in xs])
