"""Attention beside torch's scaled_dot_product_attention. B batch, S sequence, H heads, K kv heads, d head size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from pyjpllm.bench.kernels.case import DTYPES, Case, Subject, gradient, normal, ours, without_gradient

# (S, H, K), each with head sizes 64 and 128: fewer heads where the sequence is long, since time grows with its square.
SHAPES = (
    (1024, 4, 4),
    (2048, 4, 4),
    (4096, 2, 2),
    (8192, 1, 1),
    (1000, 4, 4),  # no multiple of any block
    (1537, 4, 2),
    (3001, 2, 1),
    (2048, 8, 2),
)
QUICK = (SHAPES[0], SHAPES[5])
HEAD_SIZES = (64, 128)


def cases(dtypes: list[str], *, quick: bool, threads: int) -> Iterator[Case]:
    """Causal, forward and backward; then without a mask, once a type."""
    for dtype in dtypes:
        for d in HEAD_SIZES:
            for s, h, k in QUICK if quick else SHAPES:
                yield from _pair(s, h, k, d, dtype, causal=True)
        yield from _pair(1024, 4, 4, 64, dtype, causal=False)


def _pair(s: int, h: int, k: int, d: int, dtype: str, *, causal: bool) -> Iterator[Case]:
    pairs = s * (s + 1) / 2 if causal else float(s * s)
    flops = 4.0 * h * d * pairs  # two products; backward has five
    name = "attention causal" if causal else "attention full"
    shape = f"S{s} H{h}{f' K{k}' if k != h else ''} d{d}"
    line = {"fp32": "3 fp32", "bf16": "3 bf16"}.get(dtype) if causal else None
    inputs = s * d * (h + 2 * k) * DTYPES[dtype].itemsize
    facts = {"head": float(d), "inputs": float(inputs)}

    def operands() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q_BSHD, dout_BSHD = (normal(1, s, h, d, dtype=dtype, seed=seed) for seed in (1, 4))
        k_BSKD, v_BSKD = (normal(1, s, k, d, dtype=dtype, seed=seed) for seed in (2, 3))
        return q_BSHD, k_BSKD, v_BSKD, dout_BSHD

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return ours("attention")(
            q,
            k,
            v,
            causal=causal,
            document_ids_BS=None,
            key_document_ids_BT=None,
            scale=d**-0.5,
            window=None,
        )

    def sdpa(q_BSHD: Tensor, k_BSKD: Tensor, v_BSKD: Tensor) -> Tensor:
        q, key, v = (x.transpose(1, 2) for x in (q_BSHD, k_BSKD, v_BSKD))
        out_BHSD = F.scaled_dot_product_attention(q, key, v, is_causal=causal, enable_gqa=k != h)
        return out_BHSD.transpose(1, 2)

    def forward() -> Subject:
        q, k, v, _ = operands()
        ours("attention")
        return Subject(without_gradient(attention, q, k, v), without_gradient(sdpa, q, k, v))

    def backward() -> Subject:
        *qkv, dout = operands()
        ours("attention")
        return Subject(gradient(attention, qkv, [dout]), gradient(sdpa, qkv, [dout]))

    for direction, make, factor in (("forward", forward, 1.0), ("backward", backward, 2.5)):
        group = f"{line} {direction}" if line else ""
        yield Case(
            "attention",
            f"{name}, {direction}",
            shape,
            dtype,
            make,
            flops=factor * flops,
            group=group,
            facts=facts,
        )
