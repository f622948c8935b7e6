"""A checkpoint folder: which files it has, which piece of which tensor is in which file, and whether all are whole.

    checkpoints/step-00001000/
        manifest.json                    written last; without it the folder is not a checkpoint
        rank-00000-000.safetensors ...   keys KIND/NAME, kinds master, exp_avg, exp_avg_sq; where a file has several
                                         pieces of a tensor, the others' keys are KIND/NAME#1, KIND/NAME#2, ...

A piece is a rectangle of a tensor, given by a [start, stop) for every dimension, so any layout of ranks can read
what another wrote: it takes the overlaps.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyjpllm.errors import UserError
from pyjpllm.files import sha256_of

FORMAT = 1
MANIFEST = "manifest.json"
Slices = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class StoredPiece:
    """One rectangle of one tensor in one file (all kinds of it)."""

    file: str
    slices: Slices
    part: int = 0
    """Which of the file's pieces of this tensor it is."""

    def key(self, kind: str, name: str) -> str:
        """Its name in the file."""
        return f"{kind}/{name}" + (f"#{self.part}" if self.part else "")


@dataclass
class StoredTensor:
    """A whole tensor: its shape and the pieces that make it up."""

    shape: tuple[int, ...]
    pieces: list[StoredPiece] = field(default_factory=list)


@dataclass
class Manifest:
    """What ``manifest.json`` says."""

    step: int
    state: dict[str, Any]
    """The trainer's counters: consumed samples, optimizer updates, skipped steps, tokens."""
    config: dict[str, Any]
    """The resolved config of the run that wrote it."""
    files: dict[str, dict[str, Any]]
    """By file name: ``sha256`` and ``bytes``."""
    tensors: dict[str, StoredTensor]

    def write(self, folder: Path) -> None:
        """Write it into ``folder``, which is still under its temporary name."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=1)
        (folder / MANIFEST).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read it; UserError when the folder is no checkpoint or the manifest is damaged."""
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError(f"{folder} is no checkpoint: it has no {MANIFEST}")
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["format"] != FORMAT:
                raise UserError(f"{path} has format {raw['format']}; this version reads format {FORMAT}")
            tensors = {
                name: StoredTensor(
                    tuple(tensor["shape"]),
                    [
                        StoredPiece(p["file"], tuple((a, b) for a, b in p["slices"]), p.get("part", 0))
                        for p in tensor["pieces"]
                    ],
                )
                for name, tensor in raw["tensors"].items()
            }
            return cls(raw["step"], raw["state"], raw["config"], raw["files"], tensors)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from error


def step_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` is."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def complete_steps(run_dir: Path) -> list[int]:
    """The steps that have a complete checkpoint, oldest first."""
    found = []
    for path in (run_dir / "checkpoints").glob("step-*"):
        match = re.fullmatch(r"step-(\d+)", path.name)
        if match and (path / MANIFEST).is_file():
            found.append(int(match[1]))
    return sorted(found)


def latest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    steps = complete_steps(run_dir)
    return step_folder(run_dir, steps[-1]) if steps else None


def sweep(run_dir: Path, keep_last: int, keep_every: int) -> list[int]:
    """Remove what a killed save left, and all checkpoints but the last ``keep_last`` and every ``keep_every``-th step.

    Returns the steps removed. A folder is renamed before it is emptied, so a half-removed one is never taken for whole.
    """
    for leftover in (run_dir / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    removed = []
    for step in complete_steps(run_dir)[:-keep_last]:
        if keep_every == 0 or step % keep_every != 0:
            folder = step_folder(run_dir, step)
            trash = folder.with_name(f".{folder.name}.trash")
            folder.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)
            removed.append(step)
    return removed


def verify(folder: Path, manifest: Manifest, files: Sequence[str]) -> str | None:
    """Check size and SHA-256 of ``files``; a sentence about the first that is not as written, or None."""
    for name in files:
        path, expected = folder / name, manifest.files[name]
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{path} has {size:,} bytes where {expected['bytes']:,} were written"
        if sha256_of(path) != expected["sha256"]:
            return f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}"
    return None


class PieceReader:
    """Reads any rectangle of any tensor of a checkpoint; files are opened once and mapped, not loaded."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._open: dict[str, Any] = {}

    def _file(self, name: str) -> Any:
        if name not in self._open:
            try:
                self._open[name] = safe_open(self.folder / name, framework="pt", device="cpu")
            except (OSError, SafetensorError) as error:
                raise UserError(f"{self.folder / name} can't be read: {error}") from error
        return self._open[name]

    def read_into(self, target: Tensor, kind: str, name: str, slices: Slices) -> None:
        """Fill ``target`` with the rectangle ``slices`` of ``name``; UserError when a part of it is not there."""
        stored = self.manifest.tensors[name]
        filled = 0
        for piece in stored.pieces:
            overlap = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(slices, piece.slices, strict=True)]
            if any(start >= stop for start, stop in overlap):
                continue
            source = self._file(piece.file).get_slice(piece.key(kind, name))
            inside = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(overlap, piece.slices, strict=True))
            into = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(overlap, slices, strict=True))
            part = source[inside]
            target[into].copy_(part)
            filled += part.numel()
        if filled != target.numel():
            raise UserError(f"{self.folder}: {kind} of {name} is incomplete ({filled} of {target.numel()} values)")

    def whole(self, kind: str, name: str) -> Tensor:
        """The whole tensor ``name``, in the type it was stored in."""
        stored = self.manifest.tensors[name]
        first = self._file(stored.pieces[0].file).get_slice(stored.pieces[0].key(kind, name))
        full = torch.empty(stored.shape, dtype=first[(slice(0, 0),) * len(stored.shape)].dtype)
        self.read_into(full, kind, name, tuple((0, size) for size in stored.shape))
        return full


def read_model_state(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every weight of a checkpoint by name, whole, FP32 (FP64 for an FP64 run), one at a time.

    All files are verified first; UserError names a damaged one.
    """
    manifest = Manifest.read(folder)
    fault = verify(folder, manifest, sorted(manifest.files))
    if fault:
        raise UserError(fault)
    reader = PieceReader(folder, manifest)
    for name in manifest.tensors:
        yield name, reader.whole("master", name)
