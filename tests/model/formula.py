"""The Llama family written as its formulas, one token and one head at a time: what the model must equal."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pyjpllm.config.schema import ModelConfig, MoEConfig

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


def experts(moe: MoEConfig, state: State, at: str, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """A mixture of experts, one token and one expert at a time, and its router's losses over one sequence."""
    outputs, shares, squares = [], [], []
    chosen_by_any = torch.zeros(moe.num_experts, dtype=torch.float64)
    for x in xs:
        z = state[f"{at}.router.weight"] @ x
        scores = torch.exp(z) / torch.exp(z).sum() if moe.router == "softmax" else 1 / (1 + torch.exp(-z))
        ranked = (scores + state.get(f"{at}.bias_E", 0.0)).tolist()
        chosen = sorted(range(moe.num_experts), key=lambda e: (-ranked[e], e))[: moe.experts_per_token]
        total = sum(scores[e] for e in chosen) if moe.normalize_weights else 1.0
        y = torch.zeros_like(x)
        for e in chosen:
            chosen_by_any[e] += 1
            gate, up, down = (state[f"{at}.experts.{name}.weight"][e] for name in ("gate", "up", "down"))
            hidden = gate @ x
            y = y + scores[e] / total * (down @ (hidden / (1 + torch.exp(-hidden)) * (up @ x)))
        if moe.shared_size:
            gated = 1.0
            if moe.shared_gate:
                gated = 1 / (1 + torch.exp(-(state[f"{at}.shared_gate.weight"] @ x)))
            y = y + gated * mlp(state, f"{at}.shared", x)
        outputs.append(y)
        shares.append(scores / scores.sum())
        squares.append(torch.log(torch.exp(z).sum()) ** 2)
    f = chosen_by_any * moe.num_experts / (moe.experts_per_token * len(xs))
    balance = (f * sum(shares) / len(xs)).sum()
    return outputs, moe.balance_loss * balance + moe.router_z_loss * sum(squares) / len(xs)


def logits(
    config: ModelConfig, state: State, ids: list[int], positions: list[int] | None = None, documents=None
) -> Tensor:
    """Logits [S, V] of one sequence."""
    return logits_and_losses(config, state, ids, positions, documents)[0]


def logits_and_losses(
    config: ModelConfig, state: State, ids: list[int], positions: list[int] | None = None, documents=None
) -> tuple[Tensor, list[Tensor]]:
    """Logits [S, V] of one sequence, and the losses of its routers by layer."""
    losses: list[Tensor] = []
    positions = list(range(len(ids))) if positions is None else positions
    documents = [0] * len(ids) if documents is None else documents
    xs = [state["embedding.weight"][i] for i in ids]
    for layer in range(config.num_layers):
        at = f"blocks.{layer}"
        normed = [norm(x, state[f"{at}.attention_norm.weight"], config.norm_eps) for x in xs]
        update = attention(config, state, f"{at}.attention", normed, positions, documents)
        xs = [x + u for x, u in zip(xs, update, strict=True)]
        normed = [norm(x, state[f"{at}.mlp_norm.weight"], config.norm_eps) for x in xs]
        if config.moe is not None and config.moe.is_sparse(layer):
            updates, loss = experts(config.moe, state, f"{at}.mlp", normed)
            losses.append(loss)
        else:
            updates = [mlp(state, f"{at}.mlp", x) for x in normed]
        xs = [x + u for x, u in zip(xs, updates, strict=True)]
    head = state["embedding.weight"] if config.tie_embeddings else state["head.weight"]
    return torch.stack([head @ norm(x, state["norm.weight"], config.norm_eps) for x in xs]), losses
