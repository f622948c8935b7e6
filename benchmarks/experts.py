"""A layer of 8 experts, 2 of them a token, beside dense work of as many operations.

    taskset -c 1 python -m benchmarks.experts [--dtype fp32] [--write docs/performance.md]

Forward and backward, CPU time on one thread, the three taking turns, best of several: the bare dense products, a dense
SwiGLU feed-forward made of them, and the whole layer of experts with router, losses, the sorting of rows and their sum,
and the rows that random weights happen to give each expert.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.ranks import write_between
from pyjpllm import ops
from pyjpllm.bench.timing import keep_memory, take_turns
from pyjpllm.config.schema import MoEConfig
from pyjpllm.model.feed_forward import MLP
from pyjpllm.model.moe import MoE
from pyjpllm.ops.types import DTYPES
from pyjpllm.parallel import ExpertParallel, TensorParallel

SIZES = ((1024, 512, 1408), (2048, 1024, 2816))  # tokens, D, F
SEQUENCES, ROUNDS, SECONDS = 4, 9, 60.0


def normal(layer: nn.Module) -> None:
    """Fill a layer's weights."""
    with torch.no_grad():
        for param in layer.parameters():
            param.normal_(0, 0.02)


def both_ways(layer: nn.Module, rows: Tensor, *arguments: int) -> Callable[[], None]:
    """Forward and backward of a layer."""
    x, dy = rows.clone().requires_grad_(), torch.randn_like(rows)

    def run() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        layer(x, *arguments).backward(dy)

    return run


def products(mlp: MLP, rows: Tensor) -> Callable[[], None]:
    """The products of a feed-forward's forward and backward, nothing else."""
    hidden = torch.randn(rows.shape[0], mlp.gate.weight.shape[0], dtype=rows.dtype)

    def run() -> None:
        for weight, x, dy in (
            (mlp.gate.weight, rows, hidden),
            (mlp.up.weight, rows, hidden),
            (mlp.down.weight, hidden, rows),
        ):
            ops.linear(x, weight.detach())
            ops.linear_grad_input(dy, weight)
            ops.linear_grad_weight(dy, x)

    return run


def table(dtype: torch.dtype) -> str:
    """Markdown."""
    keep_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ops.use_backend("native")
    lines = [
        "| tokens x D x F | experts: GF/s | of bare products | of a dense feed-forward | largest load |",
        "|---|---|---|---|---|",
    ]
    for tokens, width, hidden in SIZES:
        made = {"tp": TensorParallel(), "dtype": dtype, "device": "cpu"}
        moe = MoEConfig(num_experts=8, experts_per_token=2, intermediate_size=hidden)
        experts, mlp = MoE(width, moe, ep=ExpertParallel(), **made), MLP(width, hidden, **made)
        normal(experts), normal(mlp)
        x, rows = torch.randn(tokens, width, dtype=dtype), torch.randn(2 * tokens, width, dtype=dtype)
        ours, bare, dense = take_turns(
            [both_ways(experts, x, SEQUENCES), products(mlp, rows), both_ways(mlp, rows)],
            rounds=ROUNDS,
            seconds=SECONDS,
            clock=time.process_time,
        )
        load = float(experts.loads_E.max() / experts.loads_E.mean())
        rate = 36 * tokens * width * hidden / ours / 1e9
        lines.append(
            f"| {tokens} x {width} x {hidden} | {rate:.1f} | {bare / ours:.2f} | {dense / ours:.2f} | {load:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    options = parser.parse_args()
    text = table(DTYPES[options.dtype])
    print(text)
    if options.write is not None:
        write_between(options.write, "experts", text)


if __name__ == "__main__":
    main()
