"""`jpllm evaluate PATH --text FILE...`: held-out loss and bits per byte, beside what compressors make of the text."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyjpllm.cli.exits import work_starts
from pyjpllm.cli.generate import Device, Dtype, Kernels, load_tokenizer
from pyjpllm.errors import UserError

if TYPE_CHECKING:
    from pyjpllm.distributed import Mesh
    from pyjpllm.evaluation import Compressed, HeldOut, Scoring
    from pyjpllm.training import Loaded

EXAMPLE = "Example: mpirun -n 2 jpllm evaluate runs/first --text heldout.jsonl --baseline xz --json"


class Start(str, Enum):
    """What a document begins after."""

    auto = "auto"
    eos = "eos"
    bos = "bos"


def command(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A run, one of its checkpoints, or a Hugging Face folder.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="A text file, folder or pattern (.jsonl, .parquet, .txt); may be repeated."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", "-b", help="Also compress the text with zlib, bz2, xz or zstd; may be repeated."),
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens the model reads at a time.", show_default="as it was trained"),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens between windows of a longer document.", show_default="half the length"),
    ] = None,
    start: Annotated[
        Start,
        typer.Option(help="What a document begins after. auto: eos for a model trained here, else bos."),
    ] = Start.auto,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of tokenizer.model.", show_default="the one with the model")
    ] = None,
    batch_tokens: Annotated[int, typer.Option(min=1, help="About how many tokens go through at a time.")] = 8192,
    tensor: Annotated[int, typer.Option(min=1, help="Under mpirun: ranks that share the model.")] = 1,
    dtype: Annotated[Dtype, typer.Option(help="Number format to compute in.")] = Dtype.fp32,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
    kernels: Annotated[Kernels, typer.Option(help="Backend of the operations.")] = Kernels.torch,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Score every token of every document with the model in PATH: nats a token, and bits a byte of the text.

    Under mpirun the ranks divide the documents among them; the result is the same.
    """
    if not text:
        raise UserError(f"--text is missing: what to score, as in 'jpllm evaluate {path} --text heldout.jsonl'")
    from pyjpllm.corpus import expand_inputs
    from pyjpllm.distributed import finalize
    from pyjpllm.evaluation.baselines import check_baselines, compress
    from pyjpllm.evaluation.heldout import HeldOut, evaluate_corpora

    check_baselines(baseline or ())
    files = expand_inputs(text)
    loaded, mesh, chief = _load(path, tensor, dtype.value, device.value, kernels.value)
    if loaded.note is not None and chief:
        typer.echo(loaded.note, err=True)
    tok = load_tokenizer(loaded, path, tokenizer)
    scoring, begins = _scoring(loaded, sequence_length, stride, batch_tokens, start, (tok.eos_id, tok.bos_id))
    work_starts()
    display = _Progress(visible=chief)
    try:
        parts = evaluate_corpora(
            loaded.model,
            tok,
            {str(file): _texts(file) for file in files},
            scoring,
            mesh=mesh,
            progress=display.update,
        )
    finally:
        display.close()
    if chief:
        beside = compress((one for file in files for one in _texts(file)), baseline or ())
        outcome = Outcome(str(loaded.source), scoring, begins, sum(parts.values(), HeldOut()), parts, beside)
        typer.echo(json.dumps(outcome.as_dict(), ensure_ascii=False, indent=2) if as_json else outcome.as_text())
    finalize()


@dataclass(frozen=True)
class Outcome:
    """All that the command has to say."""

    model: str
    scoring: Scoring
    start: str
    total: HeldOut
    parts: dict[str, HeldOut]
    baselines: list[Compressed]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": self.model,
            "sequence_length": self.scoring.sequence_length,
            "stride": self.scoring.step,
            "start": self.start,
            **self.total.as_dict(),
            "corpora": {name: part.as_dict() for name, part in self.parts.items()},
            "baselines": {
                b.name: {
                    "setting": b.setting,
                    "bytes": b.bytes,
                    "compressed": b.compressed,
                    "bits_per_byte": b.bits_per_byte if b.bytes else None,
                }
                for b in self.baselines
            },
        }

    def as_text(self) -> str:
        """A table for people."""
        rows = [*self.parts.items()] if len(self.parts) > 1 else []
        rows.append(("all" if rows else next(iter(self.parts)), self.total))
        width = max(len(name) for name, _ in rows)
        lines = [
            f"model {self.model}, windows of {self.scoring.sequence_length} tokens every {self.scoring.step}, "
            f"documents begin after {self.start}",
            f"{'':<{width}}  {'bits/byte':>9}  {'nats/token':>10}  {'tokens':>12}  {'bytes':>13}  {'documents':>9}",
        ]
        lines += [
            f"{name:<{width}}  {part.bits_per_byte:>9.4f}  {part.loss:>10.4f}  {part.tokens:>12,}  {part.bytes:>13,}"
            f"  {part.documents:>9,}"
            for name, part in rows
        ]
        for b in self.baselines:
            lines.append(f"{b.setting + ':':<{width}}  {b.bits_per_byte:>9.4f}  ({b.compressed:,} bytes)")
        if self.total.changed_documents:
            lines.append(
                f"{self.total.changed_documents:,} documents come back from the tokenizer changed (normalised); per "
                f"byte of what comes back it is {self.total.bits_per_byte_read_back:.4f} bits"
            )
        return "\n".join(lines)


def _texts(file: Path) -> Iterator[str]:
    from pyjpllm.corpus import read_documents

    return (document.text for document in read_documents(file))


def _load(path: Path, tensor: int, dtype: str, device: str, kernels: str) -> tuple[Loaded, Mesh, bool]:
    """The model (this rank's part), the mesh, and whether this rank speaks."""
    import torch

    from pyjpllm import ops
    from pyjpllm.distributed import init, make_mesh
    from pyjpllm.ops.types import DTYPES
    from pyjpllm.parallel import TensorParallel
    from pyjpllm.training import find_model, load_model

    find_model(path)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: torch {torch.__version__} sees no GPU here; leave it out")
    world = init("nccl" if device == "cuda" else "mpi4py")
    if world.size % tensor:
        raise UserError(f"--tensor {tensor} does not divide the {world.size} ranks of this job")
    mesh = make_mesh(world, tp=tensor)
    ops.use_backend(kernels)
    tp = TensorParallel.from_mesh(mesh, sequence=False)
    loaded = load_model(path, dtype=DTYPES[dtype], tp=tp, device=device)
    return loaded, mesh, world.rank == 0


def _scoring(
    loaded: Loaded, length: int | None, stride: int | None, batch_tokens: int, start: Start, ids: tuple[int, int]
) -> tuple[Scoring, str]:
    """Windows as the model was trained, where they are not given, and the name of what a document begins after."""
    from pyjpllm.evaluation import Scoring
    from pyjpllm.training import Manifest

    trained_here = (loaded.source / "manifest.json").is_file()
    if length is None and trained_here:
        length = int(Manifest.read(loaded.source).config["data"]["sequence_length"])
    if length is None:
        length = min(loaded.config.max_position, 4096)
    begins = start.value if start is not Start.auto else ("eos" if trained_here else "bos")
    return Scoring(length, stride, batch_tokens, ids[0] if begins == "eos" else ids[1]), begins


class _Progress:
    """Tokens scored so far: one line that changes on a terminal, a line every half minute in a log."""

    def __init__(self, *, visible: bool) -> None:
        self.visible = visible
        self.terminal = sys.stderr.isatty()
        self.begin = self.shown = time.monotonic()

    def update(self, name: str, part: HeldOut) -> None:
        """Show how far rank 0 is in corpus ``name``."""
        now = time.monotonic()
        if not self.visible or now - self.shown < (0.2 if self.terminal else 30.0):
            return
        self.shown = now
        # The loss so far: bits per byte would set the bytes that were read against the tokens that are scored.
        line = f"{name}: {part.tokens:,} tokens scored, loss {part.loss:.4f}"
        print(f"\r\033[K{line}" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Take the changing line away."""
        if self.visible and self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
