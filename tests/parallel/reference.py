"""Small models, batches with uneven counts, and their training on one process with nothing of pyjpllm.parallel's own.

The reference is plain autograd over the whole global batch, ``torch.optim.AdamW`` and a norm by hand: no flat buffers,
no buckets, no micro-batches, no collectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pyjpllm.config.schema import ModelConfig
from pyjpllm.distributed import World, make_mesh
from pyjpllm.model import Transformer, initialize
from pyjpllm.training.experts import Biases, Loads, balance, expert_biases, weigh_losses

STEPS, SEQUENCES, LENGTH = 10, 8, 7
LR, BETAS, EPS, WEIGHT_DECAY, Z_LOSS = 1e-2, (0.9, 0.95), 1e-8, 0.1, 1e-3
# Between the norms that these runs have: some steps clip, some do not (asserted where it is used).
CLIP = 2.2

ALONE = make_mesh(World(rank=0, size=1, local_rank=0, local_size=1, backend="mpi4py"))

_BASE: dict[str, Any] = {
    "hidden_size": 12,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 4,
    "head_dim": 4,
    "intermediate_size": 13,
    "vocab_size": 37,
    "init_std": 0.3,
}

# One a name: what is unusual about it. 37 is divided by neither 2 nor 4, nor is 13.
MODELS: dict[str, ModelConfig] = {
    name: ModelConfig(**{**_BASE, **fields})
    for name, fields in {
        "untied": {},
        "tied": {"tie_embeddings": True},
        "5 kv heads, qkv bias": {"num_heads": 10, "num_kv_heads": 5, "head_dim": 2, "qkv_bias": True},
        "2 kv heads, qk-norm, tied": {"num_heads": 8, "num_kv_heads": 2, "qk_norm": True, "tie_embeddings": True},
        "1 kv head, all biases": {"num_kv_heads": 1, "qkv_bias": True, "out_bias": True, "mlp_bias": True},
        "vocabulary of 3, window": {"vocab_size": 3, "intermediate_size": 3, "sliding_window": 3},
    }.items()
}

# The losses of routers weigh enough to be seen, and biases move enough to turn choices within ten steps.
MIXTURES: dict[str, ModelConfig] = {
    name: ModelConfig(**{**_BASE, "num_layers": 4, **fields})
    for name, fields in {
        "8 experts": {
            "moe": {
                **dict.fromkeys(("balance_loss", "router_z_loss"), 0.1),
                "num_experts": 8,
                "experts_per_token": 2,
                "intermediate_size": 7,
            }
        },
        "shared, sigmoid, biases": {
            "tie_embeddings": True,
            "qk_norm": True,
            "moe": {
                "num_experts": 4,
                "experts_per_token": 3,
                "intermediate_size": 5,
                "normalize_weights": False,
                "shared_size": 9,
                "shared_gate": True,
                "router": "sigmoid",
                "first_dense_layers": 1,
                "balance_loss": 0.0,
                "router_z_loss": 0.02,
                "balance_bias_rate": 0.1,
            },
        },
    }.items()
}


@dataclass
class GlobalBatch:
    """All sequences of one step; B = SEQUENCES, S = LENGTH."""

    tokens_BS: torch.Tensor
    targets_BS: torch.Tensor
    positions_BS: torch.Tensor
    document_ids_BS: torch.Tensor


def global_batch(config: ModelConfig, step: int) -> GlobalBatch:
    """Random documents; each sequence counts another number of its tokens, one counts none."""
    generator = torch.Generator().manual_seed(1000 + step)
    shape = (SEQUENCES, LENGTH)
    tokens = torch.randint(config.vocab_size, shape, generator=generator)
    targets = torch.randint(config.vocab_size, shape, generator=generator)
    counted = torch.randint(1, LENGTH + 1, (SEQUENCES, 1), generator=generator)
    counted[step % SEQUENCES] = 0
    targets[torch.arange(LENGTH)[None] >= counted] = -100
    starts = torch.rand(shape, generator=generator) < 0.2
    starts[:, 0] = True
    documents = starts.cumsum(1) - 1
    last_start = torch.where(starts, torch.arange(LENGTH), 0).cummax(1).values
    return GlobalBatch(tokens, targets, torch.arange(LENGTH) - last_start, documents)


@dataclass
class Reference:
    """What a run on one process gives, whole tensors by parameter name."""

    initial: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    final: dict[str, torch.Tensor]
    losses: list[float]
    z_losses: list[float]
    norms: list[float]
    counts: list[int]
    loads: list[Loads]
    """Of the experts, where there are any."""
    biases: Biases


def train_on_one_process(config: ModelConfig) -> Reference:
    """Ten AdamW steps in FP64. Gradients are those of the first step."""
    model = Transformer(config, dtype=torch.float64)
    initialize(model, seed=7)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # norms and biases too are somewhere in general
        for param in model.parameters():
            param.add_(0.1 * torch.randn(param.shape, generator=generator, dtype=torch.float64))
    params = dict(model.named_parameters())
    weigh_losses(model, 1 / SEQUENCES)
    reference = Reference({n: p.detach().clone() for n, p in params.items()}, {}, {}, [], [], [], [], [], {})
    decay = [param for param in params.values() if param.ndim >= 2]
    rest = [param for param in params.values() if param.ndim < 2]
    groups = [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    for step in range(STEPS):
        batch = global_batch(config, step)
        out = model.loss(
            batch.tokens_BS,
            batch.targets_BS,
            positions_BS=batch.positions_BS,
            document_ids_BS=batch.document_ids_BS,
            z_loss=Z_LOSS,
        )
        count = int((batch.targets_BS != -100).sum())
        assert int(out.count) == count
        optimizer.zero_grad()
        ((out.loss + out.z_loss) / count).backward()
        gradients = {name: param.grad for name, param in params.items() if param.grad is not None}
        assert gradients.keys() == params.keys()
        norm = float(torch.cat([gradient.flatten() for gradient in gradients.values()]).square().sum().sqrt())
        if not step:
            reference.gradients = {name: gradient.clone() for name, gradient in gradients.items()}
        for gradient in gradients.values():
            gradient.mul_(min(1.0, CLIP / norm))
        optimizer.step()
        reference.losses.append(float(out.loss.detach()) / count)
        reference.z_losses.append(float(out.z_loss.detach()) / count)
        reference.norms.append(norm)
        reference.counts.append(count)
        reference.loads.append(balance(model, ALONE, sequences=SEQUENCES))
    reference.biases = expert_biases(model, ALONE)
    reference.final = {name: param.detach().clone() for name, param in params.items()}
    return reference
