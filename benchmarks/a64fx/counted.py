"""What instructions.py counts, inside the emulated A64FX: each operation by torch alone and by the native kernels.

Letters: B batch, S sequence, H heads, d head size, N tokens, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.a64fx.counted_step import Plain, attended, turned
from pyjpllm import ops
from pyjpllm.bench.sides import SEED, Ours, Work
from pyjpllm.config.schema import ModelConfig
from pyjpllm.ops import native

N, D, V = 256, 256, 2048
PRODUCT = (512, 512), (1408, 512)
TOKENS, WIDTH, WIDE = 1024, 512, 1408
"""Of the operations that move memory, which would otherwise be lost in what one call costs in Python."""
B, S, H, d = 1, 256, 4, 64
EXPERTS, CHOSEN = 8, 2
EPS = 1e-5
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


def training_step() -> tuple[Run, Run]:
    work = Work(MODEL, batch=2, sequence=128, dtype="fp32")
    plain, ours = Plain(work), Ours(work, "native")
    return (lambda: [torch.tensor(plain.step())]), (lambda: [torch.tensor(ours.step())])


def forward_only() -> tuple[Run, Run]:
    x, w = (t.detach() for t in tensors(*PRODUCT))
    return (lambda: [F.linear(x, w)]), (lambda: [ops.linear(x, w)])


def norm() -> tuple[Run, Run]:
    theirs = lambda x, w: F.rms_norm(x, (WIDTH,), w, EPS)  # noqa: E731
    return both_ways(theirs, lambda x, w: ops.rms_norm(x, w, EPS), *tensors((TOKENS, WIDTH), (WIDTH,)))


def added_norm() -> tuple[Run, Run]:
    def theirs(x: Tensor, update: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        h = x + update
        return h, F.rms_norm(h, (WIDTH,), w, EPS)

    rows = (TOKENS, WIDTH)
    return both_ways(theirs, lambda x, u, w: ops.add_rms_norm(x, u, w, EPS), *tensors(rows, rows, (WIDTH,)))


def layer_norm() -> tuple[Run, Run]:
    theirs = lambda x, w, b: F.layer_norm(x, (WIDTH,), w, b, EPS)  # noqa: E731
    ours = lambda x, w, b: native.layer_norm(x, w, b, EPS)  # noqa: E731
    return both_ways(theirs, ours, *tensors((TOKENS, WIDTH), (WIDTH,), (WIDTH,)))


def softmax() -> tuple[Run, Run]:
    return both_ways(lambda x: F.softmax(x, -1), native.softmax, *tensors((TOKENS, WIDTH)))


def gradient_norm() -> tuple[Run, Run]:
    """What clipping needs: finite or not, and how large."""
    (x,) = (t.detach() for t in tensors((PARAMETERS,)))
    return (lambda: [torch.linalg.vector_norm(x)]), (lambda: [ops.sum_of_squares(x).sqrt()])


def unscaled() -> tuple[Run, Run]:
    """FP16 gradients with a loss scale to FP32 ones, and whether all are finite."""
    (x,) = (t.detach().half() for t in tensors((PARAMETERS,)))
    out = torch.empty(PARAMETERS)

    def by_torch() -> list[Tensor]:
        y = x.float() * 0.125
        return [y, y.isfinite().all().float()]

    return by_torch, lambda: [out, torch.tensor(float(native.cast_to(x, out, 0.125)))]


def chosen(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The experts of each token and their weights, as transformers' Mixtral and Qwen-MoE choose them."""
    weights, experts = torch.topk(F.softmax(logits, dim=-1, dtype=torch.float32), CHOSEN, dim=-1)
    return experts, weights / weights.sum(dim=-1, keepdim=True)


def routing() -> tuple[Run, Run]:
    return both_ways(lambda x: chosen(x)[1], lambda x: ops.route(x, CHOSEN)[1], *tensors((TOKENS, EXPERTS)))


def there_and_back() -> tuple[Run, Run]:
    """Every token's row to its experts and their weighted sum back, without what the experts do."""
    logits, x = tensors((TOKENS, EXPERTS), (TOKENS, WIDTH))
    experts, weights = (t.detach() for t in chosen(logits))

    def theirs(x: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for expert in range(EXPERTS):
            tokens, slots = torch.where(experts == expert)
            out.index_add_(0, tokens, x[tokens] * weights[tokens, slots, None])
        return out

    def ours(x: Tensor, weights: Tensor) -> Tensor:
        order = ops.sort_by_expert(experts, EXPERTS)
        return ops.combine(ops.dispatch(x, order), order, weights)

    return both_ways(theirs, ours, x, weights.requires_grad_())


def grouped() -> tuple[Run, Run]:
    shares = torch.rand(EXPERTS, generator=torch.Generator().manual_seed(SEED))
    sizes = (shares / shares.sum() * TOKENS).long()
    sizes[-1] += TOKENS - sizes.sum()

    def theirs(x: Tensor, w: Tensor) -> Tensor:
        return torch.cat([F.linear(rows, each) for rows, each in zip(x.split(sizes.tolist()), w, strict=True)])

    return both_ways(theirs, lambda x, w: ops.grouped_linear(x, w, sizes), *tensors((TOKENS, D), (EXPERTS, D, D)))


def gated() -> tuple[Run, Run]:
    return both_ways(lambda g, u: F.silu(g) * u, ops.swiglu, *tensors((TOKENS, WIDE), (TOKENS, WIDE)))


def products() -> tuple[Run, Run]:
    return both_ways(F.linear, ops.linear, *tensors(*PRODUCT))


def attention() -> tuple[Run, Run]:
    return both_ways(attended, ops.attention, *tensors(*3 * [(B, S, H, d)]))


OPERATIONS = (
    Operation("linear, forward", "512 x 512 x 1408", True, forward_only),
    Operation("linear", "512 x 512 x 1408", True, products),
    Operation("linear of each expert", f"{TOKENS} x {D} x {D}, {EXPERTS} uneven", True, grouped),
    Operation("attention, causal", f"{S} tokens, {H} heads of {d}", False, attention),
    Operation("rms_norm", f"{TOKENS} x {WIDTH}", False, norm),
    Operation("add_rms_norm", f"{TOKENS} x {WIDTH}", False, added_norm),
    Operation("layer_norm", f"{TOKENS} x {WIDTH}", False, layer_norm),
    Operation("softmax", f"{TOKENS} x {WIDTH}", False, softmax),
    Operation("swiglu", f"{TOKENS} x {WIDE}", False, gated),
    Operation("rotary", f"{TOKENS} tokens, 8 heads of 64, q and k", False, rotary),
    Operation("linear and cross-entropy", f"{N} x {D} x {V}", False, cross_entropy),
    Operation("embedding", f"{TOKENS} of {V} x {WIDTH}", False, embedding),
    Operation("AdamW", f"{PARAMETERS:,} parameters", False, adamw),
    Operation("gradients' norm", f"{PARAMETERS:,} numbers", False, gradient_norm),
    Operation("FP16 to FP32, scaled, finite?", f"{PARAMETERS:,} numbers", False, unscaled),
    Operation("choice of experts", f"{TOKENS} tokens, {CHOSEN} of {EXPERTS}", False, routing),
    Operation("to the experts and back", f"{TOKENS} x {WIDTH}, {CHOSEN} of {EXPERTS}", False, there_and_back),
    Operation("training step", "2 x 128 tokens, 950,272 parameters", False, training_step),
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
    """Count them all; say on standard output, as JSON, what was counted in which order."""
    torch.set_num_threads(1)
    counted: list[dict[str, Any]] = []
    with ops.use_backend("native"):
        for operation in OPERATIONS:
            print(f"{operation.name}, {operation.shape}", file=sys.stderr, flush=True)
            runs = dict(zip(("torch", "native"), operation.make(), strict=True))
            assert_equal(operation.name, runs["torch"](), runs["native"]())
            for run in runs.values():
                count(run)
            counted.append({"name": operation.name, "shape": operation.shape, "product": operation.product})
    print(json.dumps(counted))


if __name__ == "__main__":
    main()
