"""Memory-bound operations, on arrays far larger than the caches. M rows, D width, B batch, S sequence, H heads.

Bytes are counted once for each array that must be read and once for each that must be written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyjpllm.bench.kernels.case import DTYPES, Case, Subject, gradient, normal, ours, without_gradient
from pyjpllm.ops import torch_backend

WIDTH, FFN, VOCABULARY, HEADS, HEAD_SIZE = 1024, 2816, 32_000, 16, 64
EPS = 1e-5
ADAMW = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "step": 3}

Make = Callable[[], Subject]


def cases(dtypes: list[str], *, quick: bool, threads: int) -> Iterator[Case]:
    """Each operation in each type; an array has 128 MiB, or 16 MiB where it must be quick."""
    for dtype in dtypes:
        element = DTYPES[dtype].itemsize
        elements = ((16 if quick else 128) << 20) // element
        group = "5 memory" if dtype in ("fp32", "bf16") else ""
        for op, what, shape, arrays, extra, make in _table(dtype, elements):
            yield Case(op, what, shape, dtype, make, bytes=float(arrays * element + extra), group=group)
    if "fp32" in dtypes:
        yield from _adamw(((4 if quick else 32) << 20), "bf16" in dtypes)


def _table(dtype: str, elements: int) -> Iterator[tuple[str, str, str, int, int, Make]]:
    """(op, what, shape, elements read and written, bytes besides, make)."""
    m = elements // WIDTH
    rows = f"{m}x{WIDTH}"
    size = m * WIDTH

    def x_MD(seed: int) -> Tensor:
        return normal(m, WIDTH, dtype=dtype, seed=seed)

    def weight_D(seed: int) -> Tensor:
        return normal(WIDTH, dtype=dtype, seed=seed)

    def rms_norm(backward: bool) -> Subject:
        function = ours("rms_norm")
        x, w, dy = x_MD(1), weight_D(2), x_MD(3)

        def theirs(x: Tensor, w: Tensor) -> Tensor:
            return F.rms_norm(x, (WIDTH,), w, EPS)

        def mine(x: Tensor, w: Tensor) -> Any:
            return function(x, w, EPS)

        if backward:
            return Subject(gradient(mine, [x, w], [dy]), gradient(theirs, [x, w], [dy]))
        return Subject(without_gradient(mine, x, w), without_gradient(theirs, x, w))

    yield "rms_norm", "rms_norm, forward", rows, 2 * size, 0, lambda: rms_norm(False)
    yield "rms_norm", "rms_norm, backward", rows, 3 * size, 0, lambda: rms_norm(True)

    def add_rms_norm(backward: bool) -> Subject:
        function = ours("add_rms_norm")
        x, residual, w, dsum, dy = x_MD(1), x_MD(2), weight_D(3), x_MD(4), x_MD(5)

        def theirs(x: Tensor, residual: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
            total = x + residual
            return total, F.rms_norm(total, (WIDTH,), w, EPS)

        def mine(x: Tensor, residual: Tensor, w: Tensor) -> Any:
            return function(x, residual, w, EPS)

        if backward:
            inputs, outs = [x, residual, w], [dsum, dy]
            return Subject(gradient(mine, inputs, outs), gradient(theirs, inputs, outs))
        return Subject(without_gradient(mine, x, residual, w), without_gradient(theirs, x, residual, w))

    yield "rms_norm", "residual add + rms_norm, forward", rows, 4 * size, 0, lambda: add_rms_norm(False)
    yield "rms_norm", "residual add + rms_norm, backward", rows, 4 * size, 0, lambda: add_rms_norm(True)

    def layer_norm(backward: bool) -> Subject:
        function = ours("layer_norm")
        x, w, b, dy = x_MD(1), weight_D(2), weight_D(3), x_MD(4)

        def theirs(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return F.layer_norm(x, (WIDTH,), w, b, EPS)

        def mine(x: Tensor, w: Tensor, b: Tensor) -> Any:
            return function(x, w, b, EPS)

        if backward:
            # torch sums dweight and dbias of 16-bit rows in 16 bits.
            wide = gradient(theirs, [t.float() for t in (x, w, b)], [dy.float()])
            exact = wide if dtype != "fp32" else None
            return Subject(gradient(mine, [x, w, b], [dy]), gradient(theirs, [x, w, b], [dy]), exact=exact)
        return Subject(without_gradient(mine, x, w, b), without_gradient(theirs, x, w, b))

    yield "layer_norm", "layer_norm, forward", rows, 2 * size, 0, lambda: layer_norm(False)
    yield "layer_norm", "layer_norm, backward", rows, 3 * size, 0, lambda: layer_norm(True)

    f = elements // FFN

    def swiglu(backward: bool) -> Subject:
        function = ours("swiglu")
        gate, up, dy = (normal(f, FFN, dtype=dtype, seed=seed) for seed in (1, 2, 3))

        def theirs(gate: Tensor, up: Tensor) -> Tensor:
            return F.silu(gate) * up

        if backward:
            return Subject(gradient(function, [gate, up], [dy]), gradient(theirs, [gate, up], [dy]))
        return Subject(without_gradient(function, gate, up), without_gradient(theirs, gate, up))

    wide = f"{f}x{FFN}"
    yield "swiglu", "swiglu, forward", wide, 3 * f * FFN, 0, lambda: swiglu(False)
    yield "swiglu", "swiglu, backward", wide, 5 * f * FFN, 0, lambda: swiglu(True)

    s = elements // (HEADS * HEAD_SIZE)

    def rotary(backward: bool) -> Subject:
        function = ours("rotary")
        positions = torch.arange(s).unsqueeze(0)
        q, k, dq, dk = (normal(1, s, HEADS, HEAD_SIZE, dtype=dtype, seed=seed) for seed in (1, 2, 3, 4))
        # As in transformers: the angles' tables are made once a step.
        angles = positions.unsqueeze(-1) * (1e4 ** (-torch.arange(0, HEAD_SIZE, 2) / HEAD_SIZE))
        cos, sin = (t.repeat(1, 1, 2).unsqueeze(2).to(q.dtype) for t in (angles.cos(), angles.sin()))

        def turned(x: Tensor) -> Tensor:
            first, second = x.chunk(2, -1)
            return x * cos + torch.cat([-second, first], -1) * sin

        def theirs(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            return turned(q), turned(k)

        def mine(q: Tensor, k: Tensor) -> Any:
            return function(q, k, positions, 1e4, None)

        if backward:
            return Subject(gradient(mine, [q, k], [dq, dk]), gradient(theirs, [q, k], [dq, dk]))
        return Subject(without_gradient(mine, q, k), without_gradient(theirs, q, k))

    heads = f"S{s} H{HEADS} d{HEAD_SIZE}"
    yield "rotary", "rotary of q and k, forward", heads, 4 * size, 0, lambda: rotary(False)
    yield "rotary", "rotary of q and k, backward", heads, 4 * size, 0, lambda: rotary(True)

    def embedding() -> Subject:
        function = ours("embedding")
        ids = torch.randint(VOCABULARY, (m,), generator=torch.Generator().manual_seed(1))
        weight, dy = normal(VOCABULARY, WIDTH, dtype=dtype, seed=2), x_MD(3)

        def mine(weight: Tensor) -> Any:
            return function(ids, weight)

        def theirs(weight: Tensor) -> Tensor:
            return F.embedding(ids, weight)

        return Subject(gradient(mine, [weight], [dy]), gradient(theirs, [weight], [dy]))

    table = VOCABULARY * WIDTH
    yield "embedding", "embedding, backward", f"{rows} V{VOCABULARY}", size + table, 8 * m, embedding

    def softmax() -> Subject:
        function = ours("softmax")
        x = x_MD(1)
        return Subject(without_gradient(function, x), without_gradient(lambda x: F.softmax(x, -1), x))

    yield "softmax", "softmax", rows, 2 * size, 0, softmax

    if dtype != "fp32":

        def cast(source: torch.dtype, target: torch.dtype) -> Subject:
            function = ours("cast_to")
            x = normal(m, WIDTH, dtype="fp32", seed=1).to(source)
            out, other = (torch.empty(m, WIDTH, dtype=target) for _ in range(2))

            def mine() -> object:
                function(x, out)
                return out

            return Subject(mine, lambda: other.copy_(x))

        low = DTYPES[dtype]
        yield "cast", f"cast fp32 to {dtype}", rows, size, 4 * size, lambda: cast(torch.float32, low)
        yield "cast", f"cast {dtype} to fp32", rows, size, 4 * size, lambda: cast(low, torch.float32)


def _adamw(n: int, with_copy: bool) -> Iterator[Case]:
    def make(copy: bool) -> Subject:
        function = ours("adamw_step")
        sides: list[Callable[[], object]] = []
        for step in (function, torch_backend.adamw_step):
            buffers = [normal(n, dtype="fp32", seed=seed, scale=0.1) for seed in (1, 2, 3, 4)]
            buffers[3].square_()
            options: dict[str, Any] = dict(ADAMW)
            if copy:
                options |= {"grad_scale": 0.5, "model_param": torch.zeros(n, dtype=torch.bfloat16)}

            def work(step: Any = step, buffers: list[Tensor] = buffers, options: dict[str, Any] = options) -> object:
                step(*buffers, **options)
                return buffers[0]

            sides.append(work)
        return Subject(*sides)

    shape = f"{n >> 20}M parameters"
    yield Case("adamw", "adamw", shape, "fp32", lambda: make(False), bytes=28.0 * n, group="5 memory")
    if with_copy:
        what = "adamw, scaled gradient, bf16 copy"
        yield Case("adamw", what, shape, "fp32", lambda: make(True), bytes=30.0 * n, group="5 memory")
