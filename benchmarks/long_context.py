"""Training steps on long sequences that a few ranks share: memory of a rank, and the numbers of one process.

    python -m benchmarks.long_context [--lengths 8192 32768 131072] [--documents 1 1 32] [--write PAGE]

A small model in FP32 on the native kernels, one sequence of random tokens a step. "Live" is the most bytes of storages
that are alive at a time on any rank, of the model, its optimizer and one step; "process" is what the process takes
beyond one that has done a short step, pages of library code apart. `predicted_bytes` says both before a run;
docs/parallelism.md has the formula. The documents of a sequence change its time, not its memory. At a moderate length
loss and gradients are compared with those of one process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.memory import LiveBytes
from benchmarks.ranks import on_ranks, write_between
from pyjpllm import distributed, ops
from pyjpllm.bench.probe import resident_bytes
from pyjpllm.config.schema import ModelConfig, OptimizerConfig
from pyjpllm.data.batch import positions_of
from pyjpllm.distributed import Mesh, collectives, make_mesh
from pyjpllm.model import Transformer, initialize
from pyjpllm.parallel import ContextParallel, DataParallel, FlatParameters, global_grad_norm
from pyjpllm.parallel.context import Kind
from pyjpllm.training.optimizer import AdamW

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


def predicted_bytes(kind: Kind, length: int, ranks: int, parameters: int) -> tuple[float, float]:
    """(live storages, the process) of a rank, for one layer with "cheap" checkpointing in FP32; see
    docs/parallelism.md."""
    D, F, V = MODEL.hidden_size, MODEL.intermediate_size, MODEL.vocab_size
    queries, keys = MODEL.num_heads * MODEL.head_dim, MODEL.num_kv_heads * MODEL.head_dim
    if kind == "ring":
        attention, integers = 2 * queries + 2 * keys, length
    else:  # whole sequences of some heads, copied ones too, and the output once more as this rank's tokens
        copies = max(1, ranks // MODEL.num_kv_heads)
        attention, integers = 3 * queries + 2 * keys * copies, 2 * length
    tokens = length / ranks
    floats = tokens * (5 * F + 3 * D + attention + MODEL.head_dim + MODEL.num_heads + 2) + 4 * parameters
    live = 4 * floats + 8 * (4 * tokens + integers)
    return live, live + 4 * (tokens * (V + 5) + 2 * 2048 * D)


def _anonymous_bytes() -> tuple[int, int]:
    """(memory of this process now, the most it has had), without pages of files: library code is read as it is used."""
    now, most = resident_bytes()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    files = int(fields["RssFile"].split()[0]) * 1024
    return now - files, most - files


def rank_main(kind: Kind, length: int, documents: int, out: Path) -> None:
    """On each rank: one step; rank 0 writes what was found."""
    torch.set_num_threads(1)
    ops.use_backend("native")
    mesh = make_mesh(
        distributed.init("mpi4py", timeout_s=3600), dp=1, cp=int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    )
    with LiveBytes():  # what it needs itself is there then
        Subject(mesh, kind, 64, 1).step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, _ = _anonymous_bytes()
    with LiveBytes() as live:
        subject = Subject(mesh, kind, length, documents)
        loss, norm = subject.step()
    _, most = _anonymous_bytes()
    peaks = torch.tensor([live.most, most - before], dtype=torch.float64)
    collectives.all_reduce(peaks, mesh.group("cp"), op="max")
    if mesh.is_first("cp"):
        size = mesh.size("cp")
        found = {"loss": loss, "norm": norm, "peaks": peaks.tolist(), "ranks": size}
        found |= {"kind": kind, "length": length, "documents": documents}
        found["predicted"] = predicted_bytes(kind, length, size, sum(p.numel() for p in subject.model.parameters()))
        out.write_text(json.dumps(found))


def measure(ranks: int, kind: Kind, length: int, documents: int = 1) -> dict[str, Any]:
    """What a launch of its own finds."""
    fields = ["--kind", kind, "--lengths", str(length), "--documents", str(documents)]
    # What is freed goes back at once, so that the peak is of what is used.
    found: dict[str, Any] = on_ranks("benchmarks.long_context", ranks, *fields, MALLOC_MMAP_THRESHOLD_="65536")
    return found


def table(rows: list[dict[str, Any]], whole: dict[str, Any], shared: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        f"One step on {rows[0]['ranks']} ranks; peaks of a rank, MiB:",
        "",
        "| tokens | documents | kind | live | predicted | off | process | predicted | off |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row['length']:,}", str(row["documents"]), f"`{row['kind']}`"]
        for peak, predicted in zip(row["peaks"], row["predicted"], strict=True):
            cells += [f"{peak / 2**20:.1f}", f"{predicted / 2**20:.1f}", f"{predicted / peak - 1:+.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
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
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--rank-out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="ring", help=argparse.SUPPRESS)
    parser.add_argument("--documents", type=int, nargs="+", default=[1, 1, 32], help="of a sequence of each length")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the marks of this page")
    options = parser.parse_args()
    if options.rank_out is not None:
        rank_main(options.kind, options.lengths[0], options.documents[0], options.rank_out)
        return
    if len(options.documents) != len(options.lengths):
        parser.error(f"--documents: {len(options.lengths)} numbers are needed, one of each length")
    kinds: tuple[Kind, ...] = get_args(Kind)
    whole = measure(1, "ring", MODERATE, 5)
    shared = [measure(options.ranks, kind, MODERATE, 5) for kind in kinds]
    cases = [(kind, *case) for case in zip(options.lengths, options.documents, strict=True) for kind in kinds]
    rows = [measure(options.ranks, *case) for case in cases]
    text = table(rows, whole, shared)
    print(text)
    if options.write is not None:
        write_between(options.write, "long sequences", text)


if __name__ == "__main__":
    main()
