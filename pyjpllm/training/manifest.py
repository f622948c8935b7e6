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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyjpllm.errors import UserError
from pyjpllm.files import sha256_of
from pyjpllm.training.folders import MANIFEST

FORMAT = 1
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
        try:
            if not path.is_file():
                raise UserError(f"{folder} is no checkpoint: it has no {MANIFEST}")
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
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror}") from error

    @classmethod
    def first_of(cls, folders: Sequence[Path]) -> tuple[Manifest, str | None]:
        """The manifest of the first of ``folders`` (a checkpoint's, then its copy's) that has a sound one.

        With it a line about one that is not sound, or None. UserError when none is.
        """
        faults: list[str] = []
        for folder in folders:
            try:
                manifest = cls.read(folder)
            except UserError as error:
                faults.append(str(error))
                continue
            return manifest, f"{faults[0]}; taken from its copy in {folder}" if faults else None
        raise UserError(", and ".join(faults))


def verify(folder: Path, name: str, expected: Mapping[str, Any]) -> str | None:
    """Check size and SHA-256 of a file against what a manifest says of it; a sentence if it is not so, or None."""
    path = folder / name
    try:
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{path} has {size:,} bytes where {expected['bytes']:,} were written"
        if sha256_of(path) != expected["sha256"]:
            return f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}"
    except OSError as error:
        return f"{path} can't be read: {error.strerror}"
    return None


@dataclass
class Located:
    """Where the files of a checkpoint are whole, as far as they have been looked at."""

    elsewhere: dict[str, Path] = field(default_factory=dict)
    """By file name: the folder of the copy, for files that are not whole in the first folder."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with those in the first folder."""
    problem: str | None = None
    """Of a file that is whole nowhere: what is wrong with it, everywhere."""

    def add(self, other: Located) -> None:
        """Join what another rank found."""
        self.elsewhere.update(other.elsewhere)
        self.faults += other.faults
        self.problem = self.problem or other.problem

    def note(self) -> str | None:
        """One line about files that are taken from a copy, or None."""
        if not self.elsewhere:
            return None
        more = f" (the first of {len(self.faults)} such files)" if len(self.faults) > 1 else ""
        return f"{self.faults[0]}{more}; taken from its copy in {next(iter(self.elsewhere.values()))}"


def locate(folders: Sequence[Path], manifest: Manifest, files: Sequence[str]) -> Located:
    """For each of ``files`` the first of ``folders`` (a checkpoint's, then its copy's) in which it is as written."""
    found = Located()
    for name in files:
        faults = []
        for folder in folders:
            fault = verify(folder, name, manifest.files[name])
            if fault is None:
                break
            faults.append(fault)
        if len(faults) == len(folders):
            found.problem = found.problem or ", and ".join(faults)
        elif faults:
            found.faults.append(faults[0])
            found.elsewhere[name] = folders[len(faults)]
    return found


class PieceReader:
    """Reads any rectangle of any tensor of a checkpoint; files are opened once and mapped, not loaded.

    ``elsewhere``: the folders of files that are not read from ``folder``.
    """

    def __init__(self, folder: Path, manifest: Manifest, elsewhere: Mapping[str, Path] | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.elsewhere = elsewhere or {}
        self._open: dict[str, Any] = {}

    def _file(self, name: str) -> Any:
        if name not in self._open:
            path = self.elsewhere.get(name, self.folder) / name
            try:
                self._open[name] = safe_open(path, framework="pt", device="cpu")
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path} can't be read: {error}") from error
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
