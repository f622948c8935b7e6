"""What a weight that was packed before saves: C[M,N] = A[M,K] B[K,N] with and without, B lying as [N,K].

    taskset -c 1 python -m benchmarks.prepacked [--rows 5,16,64] [--dtype fp32,bf16,fp16]

CPU time on one thread, the two taking turns, best of several. Prints a table for docs/kernels.md: how many times faster
the product is with a packed B.
"""

from __future__ import annotations

import argparse
import time

import torch

from pyjpllm import _native
from pyjpllm.bench.kernels.case import DTYPES, normal
from pyjpllm.bench.timing import take_turns
from pyjpllm.ops.native.tensors import array

SHAPES = ((2048, 2048), (11008, 4096))  # N, K
ROUNDS, SECONDS = 9, 3.0


def gain(m: int, n: int, k: int, dtype: str, math: str) -> tuple[float, float]:
    """Seconds without over seconds with, and GFLOP/s with."""
    a_MK, weight_NK, c_MN = normal(m, k, dtype=dtype), normal(n, k, dtype=dtype, seed=1), normal(m, n, dtype=dtype)
    a, b, c = array(a_MK), array(weight_NK.t()), array(c_MN)
    of = str(DTYPES[dtype]).removeprefix("torch.")
    memory = torch.empty(_native.packed_bytes(b, of, math), dtype=torch.uint8)
    packed = array(memory)
    _native.pack(b, packed, of, 1, math)
    without, given = take_turns(
        [
            lambda: _native.gemm(a, b, c, None, False, 1, math=math),
            lambda: _native.gemm(a, b, c, None, False, 1, math=math, packed=packed),
        ],
        rounds=ROUNDS,
        seconds=SECONDS,
        clock=time.process_time,
    )
    return without / given, 2e-9 * m * n * k / given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="5,8,16,32,64,128,256,512")
    parser.add_argument("--dtype", default="fp32,bf16,fp16")
    parser.add_argument("--math", default="exact")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [int(m) for m in options.rows.split(",")]
    print(f"{_native.isa()}, {options.math}; times faster (GFLOP/s) by M")
    print("| B [K,N] | type |" + "".join(f" {m} |" for m in rows))
    print("|---|---|" + "---|" * len(rows))
    for n, k in SHAPES:
        for dtype in options.dtype.split(","):
            cells = []
            for m in rows:
                times, rate = gain(m, n, k, dtype, options.math)
                cells.append(f" {times:.2f} ({rate:.0f}) |")
            print(f"| {k} x {n} | {dtype} |" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
