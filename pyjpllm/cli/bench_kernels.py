"""`jpllm bench kernels`: every native operation beside torch, as a share of what this machine can do."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from pyjpllm.errors import UserError

EXAMPLE = "Example: jpllm bench kernels --op gemm,attention --dtype fp32,bf16 --json"


def kernels(
    op: Annotated[str | None, typer.Option(help="Operations, by commas.", show_default="all")] = None,
    dtype: Annotated[str | None, typer.Option(help="Types: fp32, bf16, fp16, by commas.", show_default="all")] = None,
    isa: Annotated[
        str | None, typer.Option(help="Instruction sets, by commas (see `jpllm doctor`).", show_default="the best")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads; above 1 by wall time, on cores not pinned.")] = 1,
    core: Annotated[int | None, typer.Option(min=0, help="Core to measure on.", show_default="the last one")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few small shapes, to see that all works.")] = False,
    memory: Annotated[bool, typer.Option(help="Measure each call's extra memory.")] = True,
    brief: Annotated[bool, typer.Option("--markdown", help="Groups of rows and the final block only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time each operation of the native kernels beside torch's, in this run by turns, and measure the peaks.

    One pinned core, CPU time. Ends with geometric means and minima. Exits with 1 when a result differs from torch's.
    """
    from pyjpllm.bench.probe import pin, set_threads

    if threads > 1 and core is not None:
        raise UserError(f"--core {core} needs --threads 1: --threads {threads} uses as many cores")
    pinned = pin(core) if threads == 1 else None
    if pinned is None:
        set_threads(threads)
    from pyjpllm.bench.kernels.bench import OPS, chosen, isas_here, run_kernel_bench
    from pyjpllm.bench.kernels.case import DTYPES
    from pyjpllm.bench.kernels.table import markdown, table
    from pyjpllm.bench.kernels.verdicts import verdicts

    if as_json and brief:
        raise UserError("--json and --markdown are two forms of one answer: give one of them")
    found = run_kernel_bench(
        chosen("--op", op, OPS),
        chosen("--dtype", dtype, tuple(DTYPES)),
        [] if isa is None else chosen("--isa", isa, isas_here()),
        quick=quick,
        threads=threads,
        core=pinned,
        extra_memory=memory,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    block = {name: verdicts([row for row in found.rows if row.isa == name]) for name in found.peaks}
    if as_json:
        answer = found.as_dict() | {"verdicts": {name: [asdict(v) for v in vs] for name, vs in block.items()}}
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        typer.echo(markdown(found, block) if brief else table(found, block))
    if not all(row.agrees for row in found.rows):
        raise typer.Exit(1)
