"""The training step that counted.py counts on torch's side: a Llama of torch's own functions.

Letters: B batch, S sequence, H heads, d head size, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyjpllm.bench.sides import OPTIMIZER, SEED, Work
from pyjpllm.config.schema import ModelConfig
from pyjpllm.model import Transformer, initialize


def half_turned(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return torch.cat((-right, left), dim=-1)


def turned(q_BSHd: Tensor, k_BSHd: Tensor, positions_BS: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """Rotary embedding as transformers writes it."""
    size = q_BSHd.shape[-1]
    frequencies = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = positions_BS[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)[:, :, None]
    cos, sin = angles.cos(), angles.sin()
    return q_BSHd * cos + half_turned(q_BSHd) * sin, k_BSHd * cos + half_turned(k_BSHd) * sin


def attended(q_BSHd: Tensor, k_BSHd: Tensor, v_BSHd: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BSHd, k_BSHd, v_BSHd))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


class Block(nn.Module):
    """A Llama block of torch's own functions, its parameters in the order of ours."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_heads * config.head_dim
        self.heads, self.size, self.theta = config.num_heads, config.head_dim, config.rope_theta
        self.attention_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.q, self.k, self.v = (nn.Linear(width, heads, bias=False) for _ in range(3))
        self.out = nn.Linear(heads, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.gate, self.up = (nn.Linear(width, config.intermediate_size, bias=False) for _ in range(2))
        self.down = nn.Linear(config.intermediate_size, width, bias=False)

    def forward(self, x_BSD: Tensor, positions_BS: Tensor) -> Tensor:
        normed = self.attention_norm(x_BSD)
        q, k, v = (layer(normed).unflatten(-1, (self.heads, self.size)) for layer in (self.q, self.k, self.v))
        q, k = turned(q, k, positions_BS, self.theta)
        x_BSD = x_BSD + self.out(attended(q, k, v).flatten(2))
        normed = self.mlp_norm(x_BSD)
        out_BSD: Tensor = x_BSD + self.down(F.silu(self.gate(normed)) * self.up(normed))
        return out_BSD


class Plain:
    """The training step with torch's own functions: what `Ours` does, from the same weights."""

    def __init__(self, work: Work) -> None:
        config = work.model
        self.tokens_BS, self.targets_BS = work.data()
        self.positions_BS = torch.arange(work.sequence).expand(work.batch, -1)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        everything = nn.ModuleList([self.embedding, self.blocks, self.norm, self.head])
        self.parameters = list(everything.parameters())
        ours = Transformer(config)
        initialize(ours, SEED)
        with torch.no_grad():
            for mine, other in zip(self.parameters, ours.parameters(), strict=True):
                mine.copy_(other)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": OPTIMIZER.weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = (OPTIMIZER.beta1, OPTIMIZER.beta2)
        self.optimizer = torch.optim.AdamW(groups, lr=OPTIMIZER.lr, betas=betas, eps=OPTIMIZER.eps, fused=True)

    def step(self) -> float:
        x_BSD = self.embedding(self.tokens_BS)
        for block in self.blocks:
            x_BSD = block(x_BSD, self.positions_BS)
        logits = self.head(self.norm(x_BSD))
        loss = F.cross_entropy(logits.flatten(0, 1), self.targets_BS.flatten())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, OPTIMIZER.clip_grad_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
