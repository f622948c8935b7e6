"""Training steps on long sequences that a few ranks share: memory of a rank, time, and the numbers of one process.

    python -m benchmarks.long_context [--ranks 4] [--lengths 32768 131072] [--write docs/parallelism.md]

A small model in FP32 on the native kernels, one sequence of random tokens in documents a step. "Peak" is the most
memory that any rank takes beyond the one with the libraries loaded and a short step done, for the model, its optimizer
and one step; "predicted" is `predicted_bytes`, the formula of docs/parallelism.md. At a moderate length loss and
gradients are compared with those of one process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import torch

from pyjpllm import distributed, ops
from pyjpllm.bench.probe import resident_bytes
from pyjpllm.config.schema import ModelConfig, OptimizerConfig
from pyjpllm.data.batch import positions_of
from pyjpllm.distributed import Mesh, collectives, make_mesh
from pyjpllm.model import Transformer, initialize
from pyjpllm.parallel import ContextParallel, DataParallel, FlatParameters, global_grad_norm
from pyjpllm.parallel.context import Kind
from pyjpllm.training.optimizer import AdamW

REPO = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- long context: begin -->", "<!-- long context: end -->"
MODERATE = 2048
MODEL = ModelConfig(
    hidden_size=64,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=192,
    vocab_size=64,
    max_position=1 << 20,
)


class Subject:
    """A model, its optimizer and a batch."""

    def __init__(self, mesh: Mesh, kind: Kind, length: int, documents: int) -> None:
        self.mesh = mesh
        self.context = ContextParallel.from_mesh(mesh, kind, length)
        self.model = Transformer(MODEL, context=self.context)
        self.model.activation_checkpointing = "cheap"
        initialize(self.model, seed=1)
        self.flat = FlatParameters(self.model.named_parameters())
        self.data_parallel = DataParallel(self.flat, mesh)
        self.optimizer = AdamW(self.flat, OptimizerConfig())
        generator = torch.Generator().manual_seed(2)
        tokens_1S = torch.randint(MODEL.vocab_size, (1, length), generator=generator)
        ids_1S = torch.arange(length)[None] * documents // length
        self.batch = [self.context.take(x) for x in (tokens_1S, tokens_1S.roll(-1, 1), positions_of(ids_1S), ids_1S)]
        self.length = length

    def step(self) -> tuple[float, float]:
        """The loss and the norm of its gradient."""
        tokens, targets, positions, ids = self.batch
        self.flat.zero_grad()
        with self.data_parallel.accumulate(last=True):
            out = self.model.loss(tokens, targets, positions_BS=positions, document_ids_BS=ids)
            (out.loss / self.length).backward()
        self.data_parallel.finish()
        loss = out.loss.detach().double()
        collectives.all_reduce(loss, self.mesh.group("replicas"))
        norm = global_grad_norm(self.flat, self.mesh)
        self.optimizer.step(1e-3, 1.0)
        return float(loss) / self.length, norm


def predicted_bytes(kind: Kind, length: int, ranks: int, parameters: int) -> float:
    """Peak of a rank, for one layer with "cheap" checkpointing in FP32; see docs/parallelism.md."""
    D, F = MODEL.hidden_size, MODEL.intermediate_size
    queries, keys = MODEL.num_heads * MODEL.head_dim, MODEL.num_kv_heads * MODEL.head_dim
    if kind == "ring":
        attention = 2 * queries + 2 * keys
    else:  # whole sequences of some heads, copied ones too, and the output once more as this rank's tokens
        copies = max(1, ranks // MODEL.num_kv_heads)
        attention = 3 * queries + 2 * keys * copies
    tokens = length / ranks
    floats = tokens * (5 * F + 4 * D + attention) + 4 * parameters
    return 4 * floats + 8 * (4 * tokens + length)


def rank_main(kind: Kind, length: int, documents: int, out: Path) -> None:
    """On each rank: one step; rank 0 writes what was found."""
    torch.set_num_threads(1)
    ops.use_backend("native")
    mesh = make_mesh(
        distributed.init("mpi4py", timeout_s=3600), dp=1, cp=int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    )
    Subject(mesh, kind, 64, 1).step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, _ = resident_bytes()
    start = time.monotonic()
    subject = Subject(mesh, kind, length, documents)
    loss, norm = subject.step()
    seconds = time.monotonic() - start
    _, most = resident_bytes()
    peak = torch.tensor([most - before], dtype=torch.float64)
    collectives.all_reduce(peak, mesh.group("cp"), op="max")
    if mesh.is_first("cp"):
        size = mesh.size("cp")
        found = {"loss": loss, "norm": norm, "seconds": seconds, "peak": float(peak), "ranks": size}
        found |= {"kind": kind, "length": length}
        found["predicted"] = predicted_bytes(kind, length, size, sum(p.numel() for p in subject.model.parameters()))
        out.write_text(json.dumps(found))


def measure(ranks: int, kind: Kind, length: int, documents: int = 1) -> dict[str, Any]:
    """What a launch of its own finds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        beside = Path(sys.executable).parent / "mpirun"
        command = [str(beside) if beside.exists() else "mpirun", "--oversubscribe", "--bind-to", "none"]
        command += ["-n", str(ranks), sys.executable, "-m", "benchmarks.long_context", "--rank-out", str(out)]
        command += ["--kind", kind, "--lengths", str(length), "--documents", str(documents)]
        fixed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
        fixed["MALLOC_MMAP_THRESHOLD_"] = "65536"  # what is freed goes back, so that the peak is of what is used
        subprocess.run(command, cwd=REPO, env={**os.environ, **fixed}, check=True)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def table(rows: list[dict[str, Any]], whole: dict[str, Any], shared: list[dict[str, Any]]) -> str:
    """Markdown."""
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"One step, {rows[0]['ranks']} ranks on {cores} cores that others used too: the seconds only say that it runs.",
        "",
        "| tokens | kind | peak of a rank, MiB | predicted | seconds |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        peak, predicted = row["peak"] / 2**20, row["predicted"] / 2**20
        lines.append(f"| {row['length']:,} | `{row['kind']}` | {peak:.1f} | {predicted:.1f} | {row['seconds']:.0f} |")
    lines += [
        "",
        f"With {whole['length']:,} tokens in five documents, FP32, against one process (relative differences):",
        "",
    ]
    lines += ["| kind | loss | gradient norm |", "|---|---|---|"]
    for row in shared:
        off = [abs(row[key] / whole[key] - 1) for key in ("loss", "norm")]
        lines.append(f"| `{row['kind']}` | {off[0]:.1e} | {off[1]:.1e} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_context", description=str(__doc__).split("\n")[0])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32768, 131072])
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    parser.add_argument("--rank-out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="ring", help=argparse.SUPPRESS)
    parser.add_argument("--documents", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_out is not None:
        rank_main(options.kind, options.lengths[0], options.documents, options.rank_out)
        return
    kinds: tuple[Kind, ...] = get_args(Kind)
    whole = measure(1, "ring", MODERATE, 5)
    shared = [measure(options.ranks, kind, MODERATE, 5) for kind in kinds]
    rows = [measure(options.ranks, kind, length) for length in options.lengths for kind in kinds]
    text = table(rows, whole, shared)
    print(text)
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        before, mark, rest = page.partition(BEGIN)
        if not mark or END not in rest:
            sys.exit(f"benchmarks.long_context: {options.write}: the marks {BEGIN} and {END} are missing")
        options.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
