"""How far each arithmetic of the matrix product lies from the exact result, by the native kernels.

    python -m benchmarks.error_study [--write]

A row is an arithmetic, a column a distribution of the operands and a K. An entry is ||C - AB|| / ||AB||, where A and B
[64, K] and [K, 64] are drawn in FP32, AB is their product in FP64 and C that of `_native.gemm` in FP32, given A and B
rounded to the arithmetic's type; the norm is Frobenius'. So the rounding of operands counts. --write puts the table
between its marks in docs/kernels.md.

gaussian: unit normal numbers. heavy tail: exp of them, all positive. outliers: unit normal numbers, one in a thousand
of A's a hundred times as large.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pyjpllm import _native

DOCS = Path(__file__).resolve().parents[1] / "docs" / "kernels.md"
BEGIN, END = "<!-- errors: begin -->", "<!-- errors: end -->"
SIZE = 64
STEPS = (512, 4096, 16384)


@dataclass(frozen=True)
class Arithmetic:
    """A row of the table: the type of the operands and the names that `_native.gemm` takes."""

    name: str
    dtype: torch.dtype
    math: str = "exact"
    chunk: int = 32


ARITHMETICS = (
    Arithmetic("FP32", torch.float32),
    Arithmetic("16-bit integers of FP32", torch.float32, "int16"),
    Arithmetic("FP16, FP32 sums", torch.float16),
    *(Arithmetic(f"FP16, chunks of {n}", torch.float16, "fp16-chunk", n) for n in (16, 32, 64, 128)),
    Arithmetic("BF16, FP32 sums", torch.bfloat16),
)

Draw = Callable[[torch.Generator, int], tuple[torch.Tensor, torch.Tensor]]


def _gaussian(generator: torch.Generator, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SIZE, k, generator=generator), torch.randn(k, SIZE, generator=generator)


def _heavy_tail(generator: torch.Generator, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = _gaussian(generator, k)
    return a.exp(), b.exp()


def _outliers(generator: torch.Generator, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = _gaussian(generator, k)
    return torch.where(torch.rand(a.shape, generator=generator) < 1e-3, 100 * a, a), b


DISTRIBUTIONS: dict[str, Draw] = {"gaussian": _gaussian, "heavy tail": _heavy_tail, "outliers": _outliers}


def array(t: torch.Tensor) -> _native.Array:
    return t.data_ptr(), t.shape, t.stride(), str(t.dtype).removeprefix("torch."), t


def relative_error(arithmetic: Arithmetic, draw: Draw, k: int) -> float:
    """||C - AB|| / ||AB||; the operands are the same for every arithmetic."""
    a, b = draw(torch.Generator().manual_seed(k), k)
    exact = a.double() @ b.double()
    c = torch.empty(SIZE, SIZE)
    narrow = [x.to(arithmetic.dtype) for x in (a, b)]
    threads = torch.get_num_threads()
    _native.gemm(
        *map(array, narrow), array(c), None, False, threads, math=arithmetic.math, math_chunk=arithmetic.chunk
    )  # fmt: skip
    return float((c.double() - exact).norm() / exact.norm())


def table() -> str:
    """The table in Markdown."""
    columns = [(name, k) for name in DISTRIBUTIONS for k in STEPS]
    lines = [["arithmetic", *(f"{name}, {k}" for name, k in columns)], ["---"] * (len(columns) + 1)]
    for arithmetic in ARITHMETICS:
        errors = (relative_error(arithmetic, DISTRIBUTIONS[name], k) for name, k in columns)
        lines.append([arithmetic.name, *(f"{error:.1e}" for error in errors)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.error_study", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/kernels.md")
    if not parser.parse_args().write:
        print(table())
        return 0
    text = DOCS.read_text(encoding="utf-8")
    marked = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)
    if not marked.search(text):
        print(f"error_study: {DOCS} lacks the marks {BEGIN} and {END}", file=sys.stderr)
        return 2
    made = table()
    DOCS.write_text(marked.sub(lambda _: f"{made}\n", text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
