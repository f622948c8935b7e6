"""What instructions.py counts, inside the emulated A64FX: each operation by torch alone and by the native kernels.

Letters: B batch, S sequence, H heads, d head size, N tokens, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyjpllm import ops
from pyjpllm.bench.sides import OPTIMIZER, SEED, Ours, Work
from pyjpllm.config.schema import ModelConfig
from pyjpllm.model import Transformer, initialize

N, D, V = 256, 256, 2048
PRODUCT = (512, 512), (1408, 512)
TOKENS, WIDTH, WIDE = 1024, 512, 1408
"""Of the operations that move memory, which would otherwise be lost in what one call costs in Python."""
B, S, H, d = 1, 256, 4, 64
PARAMETERS = 1_000_000
MODEL = ModelConfig(
    hidden_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
    intermediate_size=384,
    vocab_size=2048,
    tie_embeddings=False,
)
Run = Callable[[], Any]


@dataclass(frozen=True)
class Operation:
    """One line of the table: the same work by torch's own functions and by ours."""

    name: str
    shape: str
    needs: tuple[str, ...]
    """Names of `pyjpllm.ops` that must be native."""
    product: bool
    """A plain matrix product, which the mean leaves out."""
    make: Callable[[], tuple[Run, Run]]
    """torch's and ours; each returns what must be equal."""


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def both_ways(theirs: Callable[..., Any], ours: Callable[..., Any], *inputs: Tensor) -> tuple[Run, Run]:
    """Forward and backward of one function of the inputs, by each."""
    with torch.no_grad():
        output = theirs(*inputs)
        single = isinstance(output, Tensor)
        seeds = [torch.randn_like(y) for y in ([output] if single else output)]

    def run(function: Callable[..., Any]) -> Run:
        def once() -> Any:
            y = function(*inputs)
            outputs = [y] if isinstance(y, Tensor) else list(y)
            return [*outputs, *torch.autograd.grad(outputs, inputs, seeds)]

        return once

    return run(theirs), run(ours)


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


def adamw() -> tuple[Run, Run]:
    (start,) = tensors((PARAMETERS,))
    gradient = start.detach() * 0.1
    theirs = nn.Parameter(start.detach().clone())
    theirs.grad = gradient
    optimizer = torch.optim.AdamW([theirs], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
    ours, first, second = start.detach().clone(), torch.zeros(PARAMETERS), torch.zeros(PARAMETERS)
    steps = iter(range(1, 1000))

    def by_torch() -> list[Tensor]:
        optimizer.step()
        return [theirs.detach()]

    def by_ours() -> list[Tensor]:
        numbers: dict[str, Any] = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
        ops.adamw_step(ours, gradient, first, second, step=next(steps), **numbers)
        return [ours]

    return by_torch, by_ours


def embedding() -> tuple[Run, Run]:
    ids = torch.randint(V, (1, TOKENS), generator=torch.Generator().manual_seed(SEED))
    return both_ways(lambda w: F.embedding(ids, w), lambda w: ops.embedding(ids, w), *tensors((V, WIDTH)))


def rotary() -> tuple[Run, Run]:
    at = torch.arange(TOKENS)[None]
    shape = (1, TOKENS, 8, 64)
    ours = lambda q, k: ops.rotary(q, k, at, 1e4)  # noqa: E731
    return both_ways(lambda q, k: turned(q, k, at, 1e4), ours, *tensors(shape, shape))


def cross_entropy() -> tuple[Run, Run]:
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(SEED))
    return both_ways(
        lambda h, w: F.cross_entropy(F.linear(h, w), targets, reduction="sum"),
        lambda h, w: ops.linear_cross_entropy(h, w, targets).loss,
        *tensors((N, D), (V, D)),
    )


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


def training_step() -> tuple[Run, Run]:
    work = Work(MODEL, batch=2, sequence=128, dtype="fp32")
    plain, ours = Plain(work), Ours(work, "native")
    return (lambda: [torch.tensor(plain.step())]), (lambda: [torch.tensor(ours.step())])


def forward_only() -> tuple[Run, Run]:
    x, w = (t.detach() for t in tensors(*PRODUCT))
    return (lambda: [F.linear(x, w)]), (lambda: [ops.linear(x, w)])


def norm() -> tuple[Run, Run]:
    theirs = lambda x, w: F.rms_norm(x, (WIDTH,), w, 1e-5)  # noqa: E731
    return both_ways(theirs, lambda x, w: ops.rms_norm(x, w, 1e-5), *tensors((TOKENS, WIDTH), (WIDTH,)))


def gated() -> tuple[Run, Run]:
    return both_ways(lambda g, u: F.silu(g) * u, ops.swiglu, *tensors((TOKENS, WIDE), (TOKENS, WIDE)))


def products() -> tuple[Run, Run]:
    return both_ways(F.linear, ops.linear, *tensors(*PRODUCT))


def attention() -> tuple[Run, Run]:
    return both_ways(attended, ops.attention, *tensors(*3 * [(B, S, H, d)]))


OPERATIONS = (
    Operation("linear, forward", "512 x 512 x 1408", ("linear",), True, forward_only),
    Operation("linear", "512 x 512 x 1408", ("linear",), True, products),
    Operation("attention, causal", f"{S} tokens, {H} heads of {d}", ("attention",), False, attention),
    Operation("rms_norm", f"{TOKENS} x {WIDTH}", ("rms_norm",), False, norm),
    Operation("swiglu", f"{TOKENS} x {WIDE}", ("swiglu",), False, gated),
    Operation("rotary", f"{TOKENS} tokens, 8 heads of 64, q and k", ("rotary",), False, rotary),
    Operation("linear and cross-entropy", f"{N} x {D} x {V}", ("linear_logsumexp",), False, cross_entropy),
    Operation("embedding", f"{TOKENS} of {V} x {WIDTH}", ("embedding",), False, embedding),
    Operation("AdamW", f"{PARAMETERS:,} parameters", ("adamw_step",), False, adamw),
    Operation("training step", "2 x 128 tokens, 950,272 parameters", (), False, training_step),
)


def mark() -> None:
    """Ask the plugin for the counts so far."""
    with contextlib.suppress(OSError):
        os.close(int(os.environ["COUNT_MARK"]))


def count(run: Run) -> None:
    """Three marks around one call and around two more, after one that counts for nothing."""
    run()
    mark()
    run()
    mark()
    run()
    run()
    mark()


def assert_equal(name: str, theirs: list[Tensor], ours: list[Tensor]) -> None:
    """The same work was done: FP32 in other orders differs by far less than a thousandth of the largest element."""
    for one, other in zip(theirs, ours, strict=True):
        off = float((one - other).detach().abs().max() / one.detach().abs().max())
        if not off < 1e-3:
            raise AssertionError(f"{name}: torch and the native kernels differ by {off:.1e}")


def main() -> None:
    """Count what is native; say on standard output, as JSON, what was counted in which order."""
    torch.set_num_threads(1)
    missing = set(ops.missing_operations("native"))
    counted: list[dict[str, Any]] = []
    with ops.use_backend("native"):
        for operation in OPERATIONS:
            line = {"name": operation.name, "shape": operation.shape, "product": operation.product}
            lacking = sorted(missing.intersection(operation.needs))
            if lacking:
                counted.append({**line, "sides": [], "lacking": lacking})
                continue
            runs = dict(zip(("torch", "native"), operation.make(), strict=True))
            assert_equal(operation.name, runs["torch"](), runs["native"]())
            for run in runs.values():
                count(run)
            counted.append({**line, "sides": list(runs), "lacking": []})
    print(json.dumps(counted))


if __name__ == "__main__":
    main()
