"""Matrix products C[M,N] = A[M,K] B[K,N] in three orientations, into memory that is there.

NN: both as they are (the gradient of a layer's input); NT: B lies as [N,K] (a layer's forward); TN: A lies as [K,M]
(the gradient of its weight).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pyjpllm.bench.kernels.case import Case, Missing, Subject, native, normal

ORIENTATIONS = ("NN", "NT", "TN")

LARGE = (
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (1000, 1111, 999),
    (2048, 1408, 512),
    (2048, 5120, 1280),
    # One rank's share of GPT layers of width 7168 on 2048 tokens (wudu98/fugaku-gpt-gemm-benchmark): queries, keys and
    # values over 16 ranks, the projection over 8, the feed-forward over 16.
    (2048, 1344, 7168),
    (2048, 7168, 896),
    (2048, 1792, 7168),
    (2048, 7168, 1792),
)
# M of 1 to 64, as in generation: B lies as [N,K].
FEW_ROWS = tuple((m, n, k) for m in (1, 4, 16, 64) for n, k in ((4096, 1024), (1024, 4096)))
NARROW = (
    (2048, 32, 1024),
    (2048, 64, 512),
    (2048, 1024, 64),
    (2048, 1024, 128),
    (2048, 128, 128),
    (2048, 256, 1024),
    (1024, 1024, 256),
    (64, 64, 64),
    (128, 128, 128),
    (256, 256, 256),
)
QUICK_LARGE, QUICK_SMALL = LARGE[1:2] + LARGE[4:5], (FEW_ROWS[4], NARROW[3])


def cases(dtypes: list[str], *, quick: bool, threads: int) -> Iterator[Case]:
    """Large, then skinny and small."""
    for dtype in dtypes:
        part = {"fp32": "1", "bf16": "2"}.get(dtype)
        for m, n, k in QUICK_LARGE if quick else LARGE:
            for orientation in ORIENTATIONS:
                yield _case(orientation, m, n, k, dtype, f"{part} large" if part else "", threads)
        for m, n, k in QUICK_SMALL if quick else FEW_ROWS + NARROW:
            for orientation in ("NT",) if m <= 64 and max(n, k) >= 1024 else ORIENTATIONS:
                yield _case(orientation, m, n, k, dtype, "1 small" if dtype == "fp32" else "", threads)


def _case(orientation: str, m: int, n: int, k: int, dtype: str, group: str, threads: int) -> Case:
    def make() -> Subject:
        native()
        from pyjpllm.ops.native.tensors import _native, array

        a_MK = normal(k, m, dtype=dtype, seed=1).t() if orientation[0] == "T" else normal(m, k, dtype=dtype, seed=1)
        b_KN = normal(n, k, dtype=dtype, seed=2).t() if orientation[1] == "T" else normal(k, n, dtype=dtype, seed=2)
        c_MN, d_MN = a_MK.new_zeros(m, n), a_MK.new_zeros(m, n)
        a, b, c = array(a_MK), array(b_KN), array(c_MN)

        def product() -> object:
            _native.gemm(a, b, c, None, False, threads)
            return c_MN

        try:
            product()
        except ValueError as error:
            raise Missing(str(error)) from None
        return Subject(product, lambda: torch.mm(a_MK, b_KN, out=d_MN))

    return Case("gemm", f"gemm {orientation}", f"{m}x{n}x{k}", dtype, make, flops=2.0 * m * n * k, group=group)
