"""Linear layer and cross-entropy, forward and backward. N tokens, D hidden width, V vocabulary."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pyjpllm import ops
from pyjpllm.bench.kernels.case import DTYPES, Case, Missing, Subject, native, normal
from pyjpllm.bench.timing import Work

SHAPES = ((2048, 512, 32_000), (8192, 512, 32_000), (1024, 1024, 50_304), (1024, 2048, 32_000), (512, 2048, 100_000))
QUICK = ((512, 512, 32_000),)


def cases(dtypes: list[str], *, quick: bool, threads: int) -> Iterator[Case]:
    """Each shape in each type."""
    for dtype in dtypes:
        for n, d, v in QUICK if quick else SHAPES:
            yield _case(n, d, v, dtype, threads)


def _case(n: int, d: int, v: int, dtype: str, threads: int) -> Case:
    def make() -> Subject:
        native()
        hidden_ND = normal(n, d, dtype=dtype, seed=1).requires_grad_()
        weight_VD = normal(v, d, dtype=dtype, seed=2, scale=0.02).requires_grad_()
        targets_N = torch.randint(v, (n,), generator=torch.Generator().manual_seed(3))

        def fused() -> object:
            with ops.use_backend("native"):
                loss = ops.linear_cross_entropy(hidden_ND, weight_VD, targets_N).loss
                return (loss.detach(), *torch.autograd.grad(loss, (hidden_ND, weight_VD)))

        def plain() -> object:
            logits_NV = F.linear(hidden_ND, weight_VD).float()
            loss = F.cross_entropy(logits_NV, targets_N, reduction="sum")
            return (loss.detach(), *torch.autograd.grad(loss, (hidden_ND, weight_VD)))

        return Subject(fused, plain, _products(hidden_ND.detach(), weight_VD.detach(), threads))

    return Case(
        "cross_entropy",
        "linear + cross-entropy, forward and backward",
        f"N{n} D{d} V{v}",
        dtype,
        make,
        flops=6.0 * n * d * v,
        group=f"4 {dtype}" if dtype in ("fp32", "bf16") else "",
        facts={"inputs": float((n + v) * d * DTYPES[dtype].itemsize)},
    )


def _products(hidden_ND: Tensor, weight_VD: Tensor, threads: int) -> Work:
    """The three products that no way to the loss and its gradients can do without: logits, dhidden, dweight."""
    from pyjpllm.ops.native.tensors import _native, array

    n, v = hidden_ND.shape[0], weight_VD.shape[0]
    logits_NV = hidden_ND.new_full((n, v), 1e-3)
    dhidden_ND, dweight_VD = torch.zeros_like(hidden_ND), torch.zeros_like(weight_VD)

    def products() -> None:
        _native.gemm(array(hidden_ND), array(weight_VD.t()), array(logits_NV), None, False, threads)
        _native.gemm(array(logits_NV), array(weight_VD), array(dhidden_ND), None, False, threads)
        _native.gemm(array(logits_NV.t()), array(hidden_ND), array(dweight_VD), None, False, threads)

    try:
        products()
    except ValueError as error:
        raise Missing(str(error)) from None
    return products
