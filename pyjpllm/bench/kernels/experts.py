"""The linear layer of a mixture of experts, beside one dense product with as many operations and a loop over experts.

M rows in the order of the experts, I inputs, O outputs, E experts. Groups are ragged: what a router that is not
balanced makes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pyjpllm import ops
from pyjpllm.bench.kernels.case import Case, Subject, native, normal
from pyjpllm.bench.timing import Work

# (rows, inputs, outputs): 1024 or 2048 tokens with 2 of 8 experts each, hidden 512 or 1024, up and down.
SHAPES = ((2048, 512, 1408), (2048, 1408, 512), (4096, 1024, 2816), (4096, 2816, 1024))
QUICK = ((512, 256, 704),)
# Parts of the rows, in sixtyfourths, from nearly none to a quarter.
SHARES = (16, 1, 9, 5, 13, 8, 2, 10)


def cases(dtypes: list[str], *, quick: bool, threads: int) -> Iterator[Case]:
    """Forward, then forward and backward, of each shape in each type."""
    for dtype in dtypes:
        for m, i, o in QUICK if quick else SHAPES:
            for backward in (False, True):
                yield _case(m, i, o, dtype, backward, threads)


def group_sizes(rows: int) -> list[int]:
    """Rows of each expert."""
    sizes = [rows * share // 64 for share in SHARES]
    sizes[0] += rows - sum(sizes)
    return sizes


def _case(m: int, i: int, o: int, dtype: str, backward: bool, threads: int) -> Case:
    sizes = group_sizes(m)

    def make() -> Subject:
        native()
        x_MI = normal(m, i, dtype=dtype, seed=1).requires_grad_(backward)
        weights_EOI = normal(len(sizes), o, i, dtype=dtype, seed=2, scale=0.02).requires_grad_(backward)
        dy_MO = normal(m, o, dtype=dtype, seed=3)
        sizes_E = torch.tensor(sizes)

        def result(y_MO: Tensor) -> object:
            return torch.autograd.grad(y_MO, (x_MI, weights_EOI), dy_MO) if backward else y_MO

        def grouped() -> object:
            with ops.use_backend("native"):
                return result(ops.grouped_linear(x_MI, weights_EOI, sizes_E))

        def loop() -> object:
            parts = zip(torch.split(x_MI, sizes), weights_EOI, strict=True)
            return result(torch.cat([F.linear(rows, weight) for rows, weight in parts]))

        return Subject(grouped, loop, _dense(x_MI.detach(), weights_EOI.detach()[0], dy_MO, backward, threads))

    what = "experts, forward and backward" if backward else "experts, forward"
    flops = (6.0 if backward else 2.0) * m * i * o
    return Case("experts", what, f"{m}x{o}x{i} E{len(sizes)}", dtype, make, flops=flops)


def _dense(x_MI: Tensor, weight_OI: Tensor, dy_MO: Tensor, backward: bool, threads: int) -> Work:
    """The products of one layer with all rows."""
    from pyjpllm.ops.native.tensors import _native, array

    y_MO, dx_MI, dweight_OI = torch.empty_like(dy_MO), torch.empty_like(x_MI), torch.empty_like(weight_OI)

    def products() -> None:
        _native.gemm(array(x_MI), array(weight_OI.t()), array(y_MO), None, False, threads)
        if backward:
            _native.gemm(array(dy_MO), array(weight_OI), array(dx_MI), None, False, threads)
            _native.gemm(array(dy_MO.t()), array(x_MI), array(dweight_OI), None, False, threads)

    return products
